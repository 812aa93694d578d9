"""The phase loop: class-incremental learning, top to bottom.

    expand -> train -> finish (align) -> select -> evaluate -> save -> it is the next teacher

A model is (params, state). Labels count classes in order of arrival, so the K classes seen are 0..K-1 and
the classifier's rows have that order; the results name the original classes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from cil_func import classifier, memory, metrics, rng, tree
from cil_func.data.scenario import Phase
from cil_func.errors import NonFiniteError
from cil_func.runs.setup import Setup
from cil_func.training import evaluation, inference, train_phase
from cil_func.training.progress import Keep, Model, Progress
from cil_func.training.step import TrainState
from cil_func.training.train_phase import Emit


def run(
    setup: Setup,
    *,
    emit: Emit,
    save: Callable[[dict], None],
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> tuple[Progress, dict]:
    """Learns all phases; returns where that ends, with the finished model, and what was measured.

    emit takes every event as it happens, save the results so far at the end of each phase. progress: where an earlier
    run of the same configuration stood, None: at the start. keep: called at each border, see `progress.Keep`, and may
    stop the run by an exception; None: nothing is saved.
    Raises NonFiniteError when the loss or the features are not finite.
    """
    progress, keep = progress or Progress(), keep or Keep()
    for phase in setup.scenario.phases[progress.phase :]:
        key = rng.fold_in(setup.config.run.seed, "phase", phase.index)
        num_new, seconds = len(phase.classes), {}

        measure = partial(evaluate, setup, phase)
        if not progress.selected:  # what a stopped run had selected, it had trained before
            progress = train_phase.train(setup, phase, progress, key, emit=emit, keep=keep, evaluate=measure)
        trained, state = train_phase.narrow(progress.training.train_state, setup, phase)
        finished, gamma = setup.method.finish(trained, num_new) if phase.index else (trained, None)
        learned, clock = (finished, state), time.perf_counter()
        if setup.method.uses_memory and not progress.selected:
            chosen = select(setup, phase, learned, progress.exemplars, key)
            progress = replace(progress, exemplars=chosen, select_seconds=time.perf_counter() - clock)
            keep(lambda progress=progress: progress, True)
        exemplars, clock = progress.exemplars, time.perf_counter()
        seconds |= {"train": progress.training.seconds, "select": progress.select_seconds or 0.0}
        row = {"phase": phase.index, "gamma": None if gamma is None else gamma.item()}
        row |= measure(learned, exemplars, before=None if gamma is None else trained)
        row["memory_size"] = memory.size(exemplars)
        seconds["evaluate"] = time.perf_counter() - clock

        _agree(setup, phase, learned, progress.training.train_state, exemplars)
        rows = (*progress.rows, row | {"seconds": seconds})
        progress = Progress(phase.index + 1, learned, exemplars, rows)
        save(results_of(progress))
        emit({"event": "phase_end", **rows[-1], "norms": _norms(trained, finished)})
        keep(lambda progress=progress: progress, True)
    return progress, results_of(progress)


def results_of(progress: Progress) -> dict:
    """The measured part of results.json."""
    rows = list(progress.rows)
    return {"phases": rows, **evaluation.summary(rows)}


def select(setup: Setup, phase: Phase, learned: Model, exemplars: dict, key: int) -> dict:
    """The memory after a phase: old classes keep their first exemplars, each new class gets its own."""
    settings, labels = setup.config.memory, setup.scenario.train_labels[phase.train_rows]
    features = _features(setup, phase, learned, setup.train_images, phase.train_rows)     # (N, D), un-augmented
    seen = setup.sizes(phase)
    quota = memory.quota(sum(seen), size=settings.size, fixed_per_class=settings.fixed_per_class)
    chosen = {}
    for label in range(sum(seen[:-1]), sum(seen)):
        own = torch.nonzero(labels == label).flatten()
        picks = torch.zeros(min(quota, len(own)), dtype=torch.int64)
        if setup.processes.first:  # once, whatever the others would choose
            key_of_label = rng.fold_in(key, "select", label)
            with setup.processes.activity.long_work("choosing exemplars"):
                picks = memory.choose(features[own], quota, selection=settings.selection, key=key_of_label)
        chosen[label] = phase.train_rows[own[setup.processes.broadcast(picks).cpu()]]
    return memory.update(exemplars, chosen, quota)


def evaluate(
    setup: Setup, phase: Phase, learned: Model, exemplars: dict, *, before: tree.Tree | None = None, by: str = ""
) -> dict:
    """`evaluation.phase_row` on the test images of all classes seen; before: params before aligning."""
    params, _ = learned
    rows = torch.cat([earlier.test_rows for earlier in setup.scenario.phases[: phase.index + 1]])
    return evaluation.phase_row(
        _features(setup, phase, learned, setup.test_images, rows),
        setup.scenario.test_labels[rows],
        setup.sizes(phase),
        tree.cast(params["classifier"], device="cpu"),
        head_before_align=None if before is None else tree.cast(before["classifier"], device="cpu"),
        means=class_means(setup, phase, learned, exemplars),
        predict=by or setup.method.predict,
    )


def class_means(setup: Setup, phase: Phase, learned: Model, exemplars: dict) -> torch.Tensor | None:
    """The means (K, D) of the exemplars of each class seen, on the CPU; None without exemplars."""
    kept = memory.rows(exemplars)
    if not len(kept):
        return None
    features = _features(setup, phase, learned, setup.train_images, kept)                 # (M, D)
    return metrics.class_means(features, setup.scenario.train_labels[kept], sum(setup.sizes(phase)))


def _features(
    setup: Setup, phase: Phase, learned: Model, images: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Features (N, D) of rows (N,), on the CPU; each process computes a part of them."""
    processes, size = setup.processes, setup.forward_batch
    parts = processes.split_rows(len(rows), size)
    own = inference.features(
        setup.forward, *learned, images, rows[parts[processes.rank]], batch_size=size, device=setup.device
    )
    features = processes.gather_rows(own, parts).cpu()
    if not features.isfinite().all():
        raise NonFiniteError(f"phase {phase.index}: the features are not finite; try a lower optim.learning_rate")
    return features


def _agree(setup: Setup, phase: Phase, learned: Model, train_state: TrainState, exemplars: dict) -> None:
    """All processes must have come to the same."""
    held = {
        "the weights": learned,
        "the optimiser's state": train_state.opt_state,
        "the exemplars": [exemplars[label] for label in sorted(exemplars)],
        "the class order": torch.tensor(setup.scenario.class_order),
    }
    setup.processes.check_equal(held, when=f"after phase {phase.index}")


def _norms(trained: tree.Tree, finished: tree.Tree) -> dict[str, list[float]]:
    """The norm of each class's row before and after aligning."""
    before, after = (classifier.norms(params["classifier"]).tolist() for params in (trained, finished))
    return {"before_align": before, "after_align": after}
