"""The training of one phase: what a run's setup and its progress hand to `training.epochs.fit`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from cil_func import classifier, memory, model, rng, tree
from cil_func.data import batches
from cil_func.data.scenario import Phase
from cil_func.errors import NonFiniteError
from cil_func.methods import Outputs
from cil_func.runs.setup import Setup
from cil_func.training import inference
from cil_func.training.epochs import Position, fit, refuse_failed
from cil_func.training.progress import Keep, Model, Progress, Training
from cil_func.training.recipe import Trainer, fitted
from cil_func.training.runners import CapturedSteps, EagerSteps
from cil_func.training.step import TrainState, entry_name, nothing_measured, start

Emit = Callable[[dict], None]


def train(
    setup: Setup, phase: Phase, progress: Progress, key: int, *, emit: Emit, keep: Keep, evaluate: Callable[..., dict]
) -> Progress:
    """Trains on the phase's rows, with the last model as the teacher where the method uses one; the progress after it.

    The student gets a classifier of the run's full width, so that no shape changes as classes grow. key: the phase's;
    keep: called at each border, see `progress.Keep`; evaluate(model, exemplars, by=...): a row of results, asked for
    between epochs.
    Raises NonFiniteError for a step that is not finite.
    """
    rows = train_rows(setup, phase, progress.exemplars)
    trainer = fitted(setup.trainer(phase), len(rows), setup.processes)
    clock, training = time.perf_counter(), progress.training or _begin(setup, phase, progress, key, len(rows), emit)
    threader = partial(CapturedSteps, most=trainer.batch_size) if setup.captures else EagerSteps
    steps = threader(trainer.step, training.train_state, setup.classes(phase), training.totals, keep.changing)
    position, seconds_before = training.position, training.seconds
    training, progress = None, replace(progress, training=None)  # the state that it began with is not kept
    steps_per_epoch = len(trainer.batches(len(rows)))

    def check(health) -> None:
        name = lambda entry: entry_name(steps.snapshot()[0], entry, setup.method)  # noqa: E731
        refuse_failed(health, phase=phase.index, steps_per_epoch=steps_per_epoch, name=name)

    def at(position: Position) -> Progress:
        check(steps.health())
        train_state, totals = steps.snapshot()
        refuse_infinite(train_state, phase.index, position)
        seconds = seconds_before + time.perf_counter() - clock
        return replace(progress, training=Training(train_state, totals, position, seconds))

    def before_chunk(position: Position) -> None:
        if setup.processes.size == 1 and position.step < steps_per_epoch:  # several processes leave a training together
            keep.pause(lambda: at(position))

    def after_epoch(epoch: int) -> None:
        every = trainer.eval_every_epochs
        if every and (epoch + 1) % every == 0 and epoch + 1 < trainer.epochs:
            keep.pause(lambda: at(Position(epoch, steps_per_epoch)))
            # Not "top1": a phase's is after aligning, or by class means, which need exemplars of the new classes.
            top1 = evaluate(narrow(steps.snapshot()[0], setup, phase), {}, by="logits")["top1"]
            keep.changing()
            emit({"event": "evaluation", "phase": phase.index, "epoch": epoch, "logits_top1": top1})

    try:
        if position.step == steps_per_epoch:  # an earlier run was stopped in the evaluation after that epoch
            after_epoch(position.epoch)
            position = Position(position.epoch + 1, 0)
        fit(
            steps,
            chunks=partial(_chunks, setup, trainer, rows, key),
            batch_size=trainer.batch_size,
            teach=teacher(setup, progress.learned),
            rate=trainer.rate,
            epochs=trainer.epochs,
            dtype=setup.dtype,
            padded_to=trainer.padded_to,
            seed=partial(_seed, key) if setup.draws else None,
            start=position,
            check=check,
            emit=lambda event: emit({"event": event["event"], "phase": phase.index, **event}),
            before_step=lambda position: keep(lambda: at(position), False),
            before_chunk=before_chunk,
            after_epoch=after_epoch,
        )
        done = at(Position(trainer.epochs, 0))
    finally:
        steps.close()
    keep(lambda: done, True)
    return done


def refuse_infinite(train_state: TrainState, phase: int, position: Position) -> None:
    """A step is judged by its gradients; sound ones may still carry the weights away, and no checkpoint holds that."""
    leaves = tree.to_paths({"weights": train_state.params, "optimiser": train_state.opt_state})
    leaves = {path: leaf for path, leaf in leaves.items() if leaf.numel()}
    # Their ends, which a NaN spreads to: isfinite of each takes 7 times as long, and on a GPU a wait for each.
    ends = torch.stack([torch.stack(leaf.aminmax()).double() for leaf in leaves.values()])  # (leaves, 2)
    for path, finite in zip(leaves, ends.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise NonFiniteError(
                f"phase {phase}, epoch {position.epoch}, step {position.step}: {path} is not finite; "
                "try a lower optim.learning_rate"
            )


def _begin(setup: Setup, phase: Phase, progress: Progress, key: int, count: int, emit: Emit) -> Training:
    """The start of a phase that trains on `count` images, which it tells."""
    expanded = _widen(expand(setup, progress.learned, phase, key), setup.num_classes)
    train_state = start(setup.method, setup.trainer(phase).optimiser, *expanded)
    emit({
        "event": "phase_start", "phase": phase.index, "num_new": len(phase.classes), "classes": list(phase.classes),
        "class_names": [setup.class_names[index] for index in phase.classes],
        "classes_seen": sum(setup.sizes(phase)), "train_images": count, "epochs": setup.trainer(phase).epochs,
    })
    return Training(train_state, nothing_measured(train_state), Position(0, 0), 0.0)


def _chunks(
    setup: Setup, trainer: Trainer, rows: torch.Tensor, key: int, epoch: int, first_step: int
) -> Iterator[batches.Chunk]:
    return batches.epoch_chunks(
        setup.train_images,
        setup.scenario.train_labels,
        rows,
        batch_size=trainer.batch_size,
        key=rng.fold_in(key, "epoch", epoch),
        augment=setup.augment,
        device=setup.device,
        own=trainer.own,
        joins=trainer.joins,
        first_step=first_step,
    )


def _seed(key: int, position: Position) -> int:
    """The key of what a backbone draws in a step."""
    return rng.fold_in(key, "drop", *position)


def expand(setup: Setup, learned: Model | None, phase: Phase, key: int) -> Model:
    """The model that a phase starts from: the learned one with rows for the new classes, or a new one."""
    if learned is None or setup.method.restart:
        seen = sum(setup.sizes(phase))
        backbone = setup.config.model.backbone
        drawn = model.init(rng.fold_in(key, "init"), backbone, seen, image_size=setup.image_size)
        params, state = tree.cast(drawn, dtype=setup.dtype, device=setup.device)
        return params, state
    params, state = learned
    head = classifier.expand(params["classifier"], rng.fold_in(key, "expand"), len(phase.classes))
    return {**params, "classifier": head}, state


def teacher(setup: Setup, learned: Model | None) -> Callable[[torch.Tensor], Outputs | None]:
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
        return inference.teach(
            inference.features(
                setup.forward,
                params,
                state,
                images,
                batch_size=setup.forward_batch,
                device=setup.device,
                fill=setup.captures,  # on a GPU one eager call takes longer than a whole compiled one
            ),
            params,
        )

    return teach


def train_rows(setup: Setup, phase: Phase, exemplars: dict) -> torch.Tensor:
    """The rows that a phase trains on: the new images and the exemplars, or all images of all classes seen."""
    if setup.method.rows == "all":
        return torch.cat([earlier.train_rows for earlier in setup.scenario.phases[: phase.index + 1]])
    return torch.cat([phase.train_rows, memory.rows(exemplars)])


def _widen(learned: Model, num_classes: int) -> Model:
    params, state = learned
    return {**params, "classifier": classifier.pad(params["classifier"], num_classes)}, state


def narrow(train_state: TrainState, setup: Setup, phase: Phase) -> Model:
    """A model of the classes seen, out of the full width of training."""
    head = classifier.head(train_state.params["classifier"], sum(setup.sizes(phase)))
    return {**train_state.params, "classifier": head}, train_state.state
