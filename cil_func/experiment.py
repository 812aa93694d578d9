"""The phase loop: class-incremental learning, top to bottom.

    expand -> teacher -> train -> finish (align) -> remember -> select -> evaluate -> it is the next teacher

A model is (params, state). Labels count classes in order of arrival, so the K classes seen are 0..K-1 and the
classifier's rows have that order; the results name the original classes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

import torch

from cil_func import memory, metrics, rng, tree
from cil_func.data.images import Mirrored
from cil_func.data.scenario import Phase
from cil_func.memory import Memory
from cil_func.methods.checks import alike, finish, fitted, remembered
from cil_func.methods.extra import without_logits
from cil_func.networks.network import Model
from cil_func.training import evaluation
from cil_func.training.definition import Experiment
from cil_func.training.events import Emit
from cil_func.training.memory_pools import with_logits
from cil_func.training.passes import ModelPasses
from cil_func.training.phase import choose, teacher, train
from cil_func.training.progress import Progress, SaveHook
from cil_func.training.whole_model import before_compression, whole

HEAD = ("classifier", "head")  # the parts of params that turn features into logits


class Save(Protocol):
    """Takes the results so far, at the end of each phase."""

    def __call__(self, results: dict, /) -> None: ...


def run(
    experiment: Experiment,
    *,
    emit: Emit,
    save: Save,
    start: Callable[[], Progress] = Progress,
    hook: SaveHook[Progress] | None = None,
) -> tuple[Progress, dict]:
    """Learns all phases. Returns (progress, results): where that ends, with the finished model, and what was measured.

    emit(event) takes every event as it happens. save(results) takes the results so far, at the end of each phase.
    Results are what `results_of` returns.
    start: called once; returns where an earlier run of the same configuration stood, by default the start of phase 0.
    A function, so that no caller holds that state, a copy of the whole model, while the run goes on.
    hook: called at each border, see `progress.SaveHook`, and may stop the run by an exception; None: nothing is saved.
    Raises NonFiniteError if the loss or the features are not finite, CilError if the processes disagree.
    """
    progress, hook, method = start(), hook or SaveHook(), experiment.method
    for phase in experiment.scenario.phases[progress.phase :]:
        key, num_new = rng.fold_in(experiment.seed, "phase", phase.index), len(phase.classes)
        measure = partial(evaluate, experiment, phase)
        student = partial(expand, experiment, phase, progress.learned, key, progress.exemplars)
        teach = partial(teacher, experiment, phase, progress.learned)
        if not progress.selected:  # a stopped run that had selected its exemplars had trained before
            progress = train(experiment, phase, progress, student, teach, key, emit=emit, hook=hook, evaluate=measure)
        clock = time.perf_counter()
        trained, state = whole(experiment, phase, progress.learned, progress.stage.train_state, progress.stage.number)
        finished, gamma = finish(method, trained, num_new) if phase.index else (trained, None)
        own, logits = without_logits(progress.remembered)
        learned, own = fit(experiment, phase, Model(finished, state), own, key)
        fitted = time.perf_counter() - clock
        if method.uses_memory and not progress.selected:
            clock = time.perf_counter()
            exemplars = select(experiment, phase, learned, progress.exemplars, key)
            progress = replace(progress, exemplars=exemplars, select_seconds=time.perf_counter() - clock)
            hook.at_border(_returning(progress), True)
        own = remember(experiment, phase, learned, own, progress.exemplars, key)
        extra = with_logits(experiment, phase, learned, progress.exemplars, {**own, **logits})
        clock = time.perf_counter()
        row: dict[str, Any] = {"phase": phase.index, "gamma": gamma}
        before = None if gamma is None else Model(trained, state)
        judge = partial(measure, learned, progress.exemplars, before=before, extra=extra)
        row |= judge()
        if compressed := before_compression(experiment, phase, progress):
            row["top1_before_compress"] = measure(compressed, {}, by="logits")["top1"]
        if len(phase.validation_rows) and phase.validation_rows is not phase.test_rows:
            row["validation"] = judge(on="validation")
        row, by_class = evaluation.split(row, pairs=phase.index == len(experiment.scenario.phases) - 1)
        row["memory_size"] = memory.size(progress.exemplars)
        row["memory_bytes"] = experiment.bytes_kept(phase, learned.params, progress.exemplars, extra)
        seconds = {"train": progress.stage.seconds + fitted, "select": progress.select_seconds or 0.0}
        row["seconds"] = seconds | {"evaluate": time.perf_counter() - clock}

        _agree(experiment, phase, learned, progress, extra)
        progress = Progress(phase.index + 1, learned, progress.exemplars, (*progress.rows, row), extra=extra)
        save(results_of(progress))
        emit({"event": "phase_end", **row, "norms": evaluation.row_norms(trained, finished), **by_class})
        hook.at_border(_returning(progress), True)
    return progress, results_of(progress)


def _returning(progress: Progress) -> Callable[[], Progress]:
    return lambda: progress


def expand(experiment: Experiment, phase: Phase, learned: Model | None, key: int, exemplars: Memory) -> Model:
    """Returns the model that a phase starts from: the learned one with rows for the new classes, or a new one.

    learned: the last phase's finished model; None in phase 0. key: the phase's seed. exemplars: of the old
    classes. A new model is drawn in phase 0, and in each phase of a method with `restart`.
    """
    network, method = experiment.network, experiment.method
    if learned is None or method.restart:
        drawn = network.init(rng.fold_in(key, "init"), sum(experiment.sizes(phase)))
        return Model(*tree.cast(tuple(drawn), dtype=experiment.dtype, device=experiment.device))
    model = network.expand(learned, key, len(phase.classes), phase.index)
    if method.imprint is None:
        return model
    kept, when = memory.rows(exemplars if method.imprints == "seen" else {}), f"phase {phase.index}"
    rows = torch.cat([kept, phase.train_rows])
    features = experiment.forward.features(learned, experiment.train_images, rows, when=when)          # (N, D)
    labels, classes = experiment.scenario.train_labels[rows], experiment.classes(phase)
    params = method.imprint(model.params, features, labels, classes, rng.fold_in(key, "imprint"))
    return Model(alike(params, model.params, f"imprint of {method.name}"), model.state)


def fit(experiment: Experiment, phase: Phase, learned: Model, extra: tree.Tree, key: int) -> tuple[Model, tree.Tree]:
    """Returns (model, extra) after the method has computed the classifier's rows from the features of a phase's images.

    learned: the phase's trained model. extra: what the method remembers. Without `Extra.fit` both come back as they
    are. key: the phase's seed.
    """
    compute = experiment.method.extra and experiment.method.extra.fit
    if not compute:
        return learned, extra
    rows_of_new, when = phase.train_rows, f"phase {phase.index}"
    features = experiment.forward.features(learned, experiment.train_images, rows_of_new, when=when)   # (N, D)
    labels, classes = experiment.scenario.train_labels[rows_of_new], experiment.classes(phase)
    with experiment.processes.activity.long_work("computing the classifier"):
        found = compute(learned.params, extra, features, labels, classes, rng.fold_in(key, "fit"))
    params, extra = fitted(found, learned.params, experiment.device)
    return Model(params, learned.state), extra


def remember(
    experiment: Experiment, phase: Phase, learned: Model, extra: tree.Tree, exemplars: Memory, key: int
) -> tree.Tree:
    """Returns what the method remembers after a phase: its importances, say, measured on the phase's images.

    learned: the phase's finished model. extra: what it remembers at the end of the training, returned as it is by a
    method without `Method.extra`. exemplars: of all classes seen. key: the phase's seed.
    """
    method, network = experiment.method, experiment.network
    if method.extra is None:
        return extra
    params, num_old = network.pad(learned.params), sum(experiment.sizes(phase)[:-1])
    passes = ModelPasses(
        network=network, model=Model(params, learned.state), classes=experiment.classes(phase, experiment.device),
        images=experiment.train_images, labels=experiment.scenario.train_labels, rows=phase.train_rows,
        preprocess=experiment.preprocess,
        batch_size=experiment.recipe(phase.index, "").batch_size,
        key=rng.fold_in(key, "remember"), processes=experiment.processes,
        exemplars=memory.rows({label: exemplars[label] for label in exemplars if label < num_old}),
    )
    found = method.extra.after(extra, params, passes, passes.classes)
    return remembered(found, "after", experiment.device)


def select(experiment: Experiment, phase: Phase, learned: Model, exemplars: Memory, key: int) -> Memory:
    """Returns the memory after a phase: old classes keep their first exemplars, each new class gets its own.

    learned: the phase's finished model, whose features decide. exemplars: of the old classes. key: the phase's seed.
    """
    budget, seen = experiment.budget, sum(experiment.sizes(phase))
    quota = memory.quota(seen, size=budget.size, fixed_per_class=budget.fixed_per_class)
    return memory.update(exemplars, choose(experiment, phase, learned, quota, key), quota)


def evaluate(
    experiment: Experiment,
    phase: Phase,
    learned: Model,
    exemplars: Memory,
    *,
    before: Model | None = None,
    by: Literal["logits", "nme"] | None = None,
    on: Literal["test", "validation"] = "test",
    extra: tree.Tree | None = None,
) -> dict:
    """Returns `evaluation.phase_row` of a model on the test images of all classes seen, with what `split` takes.

    on: "validation": on the images kept for validation in their place.
    learned: the model. exemplars: from which class means are taken; {}: there are none.
    before: the model before aligning; None where nothing was aligned. by: how it predicts; None: as the method does.
    extra: what the method remembers, by which it may rectify the logits; None: they are not rectified.
    """
    images, all_labels, tested = experiment.judged_on(phase, on)
    features = experiment.forward.features(learned, images, tested, when=f"phase {phase.index}")

    def logits_of(model: Model) -> torch.Tensor:
        params = tree.cast({name: part for name, part in model.params.items() if name in HEAD}, device="cpu")
        return experiment.network.outputs(params, features, experiment.classes(phase)).logits

    labels, sizes = all_labels[tested], experiment.sizes(phase)
    logits, predict = logits_of(learned), by or experiment.method.predict
    if extra and experiment.method.rectify:
        logits = experiment.method.rectify(logits, tree.cast(extra, device="cpu"), experiment.classes(phase))
    means = class_means(experiment, phase, learned, exemplars)
    row = evaluation.phase_row(
        logits, features, labels, sizes, logits_before_align=before and logits_of(before), means=means, predict=predict
    )
    judged = evaluation.scores(logits, features, means=means, predict=predict)                         # (N, K)
    return row | {"confusion": metrics.confusion(judged.argmax(1), labels, sum(sizes)), "judged": (judged, labels)}


def class_means(experiment: Experiment, phase: Phase, learned: Model, exemplars: Memory) -> torch.Tensor | None:
    """Returns the means (K, D) of the exemplars of each class seen, on the CPU; None without exemplars.

    See `metrics.class_means`. learned: the model whose features, of un-augmented images, are averaged.
    """
    kept = memory.rows(exemplars)
    if not len(kept):
        return None
    labels, when = experiment.scenario.train_labels[kept], f"phase {phase.index}"
    features = experiment.forward.features(learned, experiment.train_images, kept, when=when)          # (M, D)
    if experiment.budget.mirror_means:
        mirrored = experiment.forward.features(learned, Mirrored(experiment.train_images), kept, when=when)
        features, labels = torch.cat([features, mirrored]), torch.cat([labels, labels])
    return metrics.class_means(features, labels, sum(experiment.sizes(phase)))


def results_of(progress: Progress) -> dict:
    """Returns the measured part of results.json: {"phases": the phases' rows} and the keys of `evaluation.summary`."""
    return {"phases": list(progress.rows), **evaluation.summary(list(progress.rows))}


def _agree(experiment: Experiment, phase: Phase, learned: Model, progress: Progress, extra: tree.Tree) -> None:
    """Raises CilError unless all processes have the same weights, optimiser's state, exemplars and class order.

    learned: the phase's finished model. extra: what the method remembers now, which is compared too.
    """
    parts = {
        "the weights": learned,
        "the optimiser's state": progress.stage.train_state.opt_state,
        "what the method remembers": extra,
        "the exemplars": [progress.exemplars[label] for label in sorted(progress.exemplars)],
        "the class order": torch.tensor(experiment.scenario.class_order),
    }
    experiment.processes.check_equal(parts, when=f"after phase {phase.index}")
