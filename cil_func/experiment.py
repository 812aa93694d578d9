"""The phase loop: class-incremental learning, top to bottom.

    expand -> train -> finish (align) -> select -> evaluate -> save -> it is the next teacher

A model is (params, state). Labels count classes in order of arrival, so the K classes seen are 0..K-1 and
the classifier's rows have that order; the results name the original classes.
"""

import time
from collections.abc import Callable

import torch

from cil_func import classifier, evaluation, memory, metrics, model, rng, tree
from cil_func.data import resident
from cil_func.data.scenario import Phase
from cil_func.engine import infer
from cil_func.engine.compile import Captured, Threaded
from cil_func.engine.fit import fit
from cil_func.engine.step import start
from cil_func.errors import NonFiniteError
from cil_func.methods import Outputs
from cil_func.setup import Setup

Model = tuple[tree.Tree, tree.Tree]
Emit = Callable[[dict], None]


def run(setup: Setup, *, emit: Emit, save: Callable[[dict], None]) -> tuple[Model, dict]:
    """Learns all phases; returns the finished model and what was measured.

    emit takes every event as it happens, save the results so far at the end of each phase.
    Raises NonFiniteError when the loss or the features are not finite.
    """
    learned, exemplars, rows, results = None, {}, [], {}
    for phase in setup.scenario.phases:
        key = rng.fold_in(setup.config.run.seed, "phase", phase.index)
        num_new, seconds, clock = len(phase.classes), {}, time.perf_counter()

        expanded = expand(setup, learned, phase, key)
        trained, state = train(setup, phase, expanded, learned, exemplars, key, emit)
        finished, gamma = setup.method.finish(trained, num_new) if phase.index else (trained, None)
        learned = (finished, state)
        seconds["train"], clock = _lap(clock)
        if setup.method.uses_memory:
            exemplars = select(setup, phase, learned, exemplars, key)
        seconds["select"], clock = _lap(clock)
        row = {"phase": phase.index, "gamma": None if gamma is None else gamma.item()}
        row |= evaluate(setup, phase, learned, exemplars, before=None if gamma is None else trained)
        row["memory_size"] = memory.size(exemplars)
        seconds["evaluate"], clock = _lap(clock)

        rows.append(row | {"seconds": seconds})
        results = {"phases": rows, **evaluation.summary(rows)}
        save(results)
        emit({"event": "phase_end", **rows[-1], "norms": _norms(trained, finished)})
    return learned, results


def expand(setup: Setup, learned: Model | None, phase: Phase, key: int) -> Model:
    """The model that a phase starts from: the learned one with rows for the new classes, or a new one."""
    if learned is None or setup.method.restart:
        seen = sum(sizes(setup, phase))
        drawn = model.init(rng.fold_in(key, "init"), setup.config.model.backbone, seen)
        params, state = tree.cast(drawn, dtype=setup.dtype, device=setup.device)
        return params, state
    params, state = learned
    head = classifier.expand(params["classifier"], rng.fold_in(key, "expand"), len(phase.classes))
    return {**params, "classifier": head}, state


def train(
    setup: Setup, phase: Phase, expanded: Model, learned: Model | None, exemplars: dict, key: int, emit: Emit
) -> Model:
    """Trains on the phase's rows, with the last model as the teacher where the method uses one.

    The student gets a classifier of the run's full width, so that no shape changes as classes grow.
    """
    trainer, rows = setup.trainer(phase), train_rows(setup, phase, exemplars)
    teach = _teacher(setup, learned)

    def chunks(epoch: int):
        return resident.epoch_chunks(
            setup.train_images,
            setup.scenario.train_labels,
            rows,
            batch_size=trainer.batch_size,
            key=rng.fold_in(key, "epoch", epoch),
            augment=setup.augment,
            device=setup.device,
        )

    def after_epoch(epoch: int, train_state) -> None:
        every = trainer.eval_every_epochs
        if every and (epoch + 1) % every == 0 and epoch + 1 < trainer.epochs:
            top1 = evaluate(setup, phase, _narrow(train_state(), setup, phase), {}, by="logits")["top1"]
            emit({"event": "evaluation", "phase": phase.index, "epoch": epoch, "top1": top1})

    emit({
        "event": "phase_start", "phase": phase.index, "num_new": len(phase.classes),
        "classes_seen": sum(sizes(setup, phase)), "train_images": len(rows), "epochs": trainer.epochs,
    })
    steps = Captured if setup.captures else Threaded
    train_state = fit(
        steps(
            trainer.step,
            start(setup.method, trainer.optimiser, *_widen(expanded, setup.num_classes)),
            setup.classes(phase),
        ),
        phase=phase.index,
        chunks=chunks,
        batch_size=trainer.batch_size,
        teach=teach,
        rate=trainer.rate,
        epochs=trainer.epochs,
        dtype=setup.dtype,
        padded=trainer.padded,
        emit=emit,
        after_epoch=after_epoch,
    )
    return _narrow(train_state, setup, phase)


def _teacher(setup: Setup, learned: Model | None) -> Callable[[torch.Tensor], Outputs | None]:
    """What the last model says of images uint8 (B, H, W, 3): zeros in phase 0, where nothing is known yet.

    Its classifier has the run's full width, as the student's has, so that no shape changes as classes grow.
    """
    if not setup.method.uses_teacher:
        return lambda images: None
    if learned is None:
        width = model.backbone(setup.config.model.backbone).feature_dim()
        shapes = (setup.num_classes, width)
        return lambda images: Outputs(
            *(torch.zeros(len(images), size, dtype=setup.dtype, device=setup.device) for size in shapes)
        )
    params, state = _widen(learned, setup.num_classes)

    def teach(images: torch.Tensor) -> Outputs:
        return infer.teach(
            infer.features(
                setup.forward, params, state, images, batch_size=setup.forward_batch, device=setup.device
            ),
            params,
        )

    return teach


def train_rows(setup: Setup, phase: Phase, exemplars: dict) -> torch.Tensor:
    """The rows that a phase trains on: the new images and the exemplars, or all images of all classes seen."""
    if setup.method.rows == "all":
        return torch.cat([earlier.train_rows for earlier in setup.scenario.phases[: phase.index + 1]])
    return torch.cat([phase.train_rows, memory.rows(exemplars)])


def select(setup: Setup, phase: Phase, learned: Model, exemplars: dict, key: int) -> dict:
    """The memory after a phase: old classes keep their first exemplars, each new class gets its own."""
    settings, labels = setup.config.memory, setup.scenario.train_labels[phase.train_rows]
    features = _features(setup, learned, setup.train_images, phase.train_rows)     # (N, D), un-augmented
    seen = sizes(setup, phase)
    quota = memory.quota(sum(seen), size=settings.size, fixed_per_class=settings.fixed_per_class)
    chosen = {}
    for label in range(sum(seen[:-1]), sum(seen)):
        own = torch.nonzero(labels == label).flatten()
        picks = memory.choose(
            features[own], quota, selection=settings.selection, key=rng.fold_in(key, "select", label)
        )
        chosen[label] = phase.train_rows[own[picks]]
    return memory.update(exemplars, chosen, quota)


def evaluate(
    setup: Setup, phase: Phase, learned: Model, exemplars: dict, *, before: tree.Tree | None = None, by: str = ""
) -> dict:
    """`evaluation.phase_row` on the test images of all classes seen; before: params before aligning."""
    params, _ = learned
    rows = torch.cat([earlier.test_rows for earlier in setup.scenario.phases[: phase.index + 1]])
    means, kept = None, memory.rows(exemplars)
    if len(kept):
        labels = setup.scenario.train_labels[kept]
        means = metrics.class_means(
            _features(setup, learned, setup.train_images, kept), labels, sum(sizes(setup, phase))
        )
    return evaluation.phase_row(
        _features(setup, learned, setup.test_images, rows),
        setup.scenario.test_labels[rows],
        sizes(setup, phase),
        tree.cast(params["classifier"], device="cpu"),
        head_before_align=None if before is None else tree.cast(before["classifier"], device="cpu"),
        means=means,
        predict=by or setup.method.predict,
    )


def sizes(setup: Setup, phase: Phase) -> list[int]:
    """num_new of each phase up to this one."""
    return [len(earlier.classes) for earlier in setup.scenario.phases[: phase.index + 1]]


def _features(setup: Setup, learned: Model, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    features = infer.features(
        setup.forward, *learned, images, rows, batch_size=setup.forward_batch, device=setup.device
    ).cpu()
    if not features.isfinite().all():
        raise NonFiniteError("the features are not finite; try a lower optim.learning_rate")
    return features


def _widen(learned: Model, num_classes: int) -> Model:
    params, state = learned
    return {**params, "classifier": classifier.pad(params["classifier"], num_classes)}, state


def _narrow(train_state, setup: Setup, phase: Phase) -> Model:
    head = classifier.head(train_state.params["classifier"], sum(sizes(setup, phase)))
    return {**train_state.params, "classifier": head}, train_state.state


def _norms(trained: tree.Tree, finished: tree.Tree) -> dict[str, list[float]]:
    """The norm of each class's row before and after aligning."""
    before, after = (classifier.norms(params["classifier"]).tolist() for params in (trained, finished))
    return {"before_align": before, "after_align": after}


def _lap(clock: float) -> tuple[float, float]:
    now = time.perf_counter()
    return now - clock, now
