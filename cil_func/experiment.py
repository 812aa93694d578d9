"""The phase loop: class-incremental learning, top to bottom.

    expand -> teacher -> train -> finish (align) -> remember -> select -> evaluate -> it is the next teacher

A model is (params, state). Labels count classes in order of arrival, so the K classes seen are 0..K-1 and the
classifier's rows have that order; the results name the original classes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from cil_func import memory, metrics, rng, tree
from cil_func.data.augmentation.augment import Augment
from cil_func.data.images import Images, Mirrored
from cil_func.data.scenario import Phase, Scenario
from cil_func.memory import Memory
from cil_func.methods.base import Method
from cil_func.networks.network import Model, Network
from cil_func.networks.outputs import Classes, classes_of
from cil_func.parallel.processes import Processes
from cil_func.training import evaluation, rows, stage, step
from cil_func.training.inference import Forward, Teach
from cil_func.training.passes import ModelPasses
from cil_func.training.progress import Progress, SaveHook, StageHook, StageProgress
from cil_func.training.recipe import Recipe, fitted
from cil_func.training.stage import Borders, Emit, TrainingData

HEAD = ("classifier", "head")  # the parts of params that turn features into logits


@dataclass(frozen=True)
class Experiment:
    """A method, a network and data, ready to run.

    class_names: by original index. test_images, train_images: labels and rows of `scenario` mean their rows.
    recipe(phase, name) -> how the stage called `name` is trained in phase 0, 1, ...; forward: runs the network.
    budget: of the exemplars. seed: from which all draws follow. preprocess: of the images. captured, draws: see
    `stage.train`. processes: those that share the work.
    """

    method: Method
    network: Network
    scenario: Scenario
    class_names: tuple[str, ...]
    train_images: Images
    test_images: Images
    augment: Augment
    preprocess: step.Preprocess
    recipe: Callable[[int, str], Recipe]
    forward: Forward
    budget: memory.Budget
    seed: int
    captured: bool
    draws: bool
    processes: Processes

    @property
    def device(self) -> torch.device:
        return self.preprocess.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and statistics."""
        return self.preprocess.mean.dtype

    @property
    def num_classes(self) -> int:
        return len(self.scenario.class_order)

    def sizes(self, phase: Phase) -> list[int]:
        """num_new of each phase up to this one."""
        return [len(earlier.classes) for earlier in self.scenario.phases[: phase.index + 1]]

    def classes(self, phase: Phase, device: torch.device | str = "cpu") -> Classes:
        """Which of the run's classes are known in a phase."""
        return classes_of(self.sizes(self.scenario.phases[-1]), phase.index, device=device)


def run(
    experiment: Experiment,
    *,
    emit: Emit,
    save: Callable[[dict], None],
    progress: Progress | None = None,
    hook: SaveHook | None = None,
) -> tuple[Progress, dict]:
    """Learns all phases; returns where that ends, with the finished model, and what was measured.

    emit takes every event as it happens, save the results so far at the end of each phase. progress: where an earlier
    run of the same configuration stood; None: at the start. hook: called at each border, see `progress.SaveHook`, and
    may stop the run by an exception; None: nothing is saved.
    Raises NonFiniteError if the loss or the features are not finite.
    """
    progress, hook = progress or Progress(), hook or SaveHook()
    method, network = experiment.method, experiment.network
    for phase in experiment.scenario.phases[progress.phase :]:
        key = rng.fold_in(experiment.seed, "phase", phase.index)
        num_new, num_seen = len(phase.classes), sum(experiment.sizes(phase))
        measure = partial(evaluate, experiment, phase)

        student = partial(expand, experiment, phase, progress.learned, key)
        if not progress.selected:  # a stopped run that had selected its exemplars had trained before
            progress = train(experiment, phase, progress, student, key, emit=emit, hook=hook, evaluate=measure)
        trained, state = _whole(network, progress.training.train_state, progress.learned, num_seen)
        finished, gamma = method.finish(trained, num_new) if phase.index else (trained, None)
        learned = Model(finished, state)
        if method.uses_memory and not progress.selected:
            clock = time.perf_counter()
            exemplars = select(experiment, phase, learned, progress.exemplars, key)
            progress = replace(progress, exemplars=exemplars, select_seconds=time.perf_counter() - clock)
            hook.at_border(lambda progress=progress: progress, True)
        extra = remember(experiment, phase, learned, progress.extra)
        clock = time.perf_counter()
        row = {"phase": phase.index, "gamma": None if gamma is None else gamma.item()}
        row |= measure(learned, progress.exemplars, before=None if gamma is None else Model(trained, state))
        row["memory_size"] = memory.size(progress.exemplars)
        seconds = {"train": progress.training.seconds, "select": progress.select_seconds or 0.0}
        row["seconds"] = seconds | {"evaluate": time.perf_counter() - clock}

        _agree(experiment, phase, learned, progress, extra)
        progress = Progress(phase.index + 1, learned, progress.exemplars, (*progress.rows, row), extra=extra)
        save(results_of(progress))
        emit({"event": "phase_end", **row, "norms": _norms(trained, finished)})
        hook.at_border(lambda progress=progress: progress, True)
    return progress, results_of(progress)


def expand(experiment: Experiment, phase: Phase, learned: Model | None, key: int) -> Model:
    """Returns the model that a phase starts from: the learned one with rows for the new classes, or a new one."""
    network, method = experiment.network, experiment.method
    if learned is None or method.restart:
        drawn = network.init(rng.fold_in(key, "init"), sum(experiment.sizes(phase)))
        return Model(*tree.cast(tuple(drawn), dtype=experiment.dtype, device=experiment.device))
    model = network.expand(learned, key, len(phase.classes), phase.index)
    if method.imprint is None:
        return model
    rows_of_new, when = phase.train_rows, f"phase {phase.index}"
    features = experiment.forward.features(learned, experiment.train_images, rows_of_new, when=when)   # (N, D)
    labels = experiment.scenario.train_labels[rows_of_new]
    imprinted = method.imprint(model.params["classifier"], features, labels, rng.fold_in(key, "imprint"))
    return Model({**model.params, "classifier": imprinted}, model.state)


def teacher(experiment: Experiment, phase: Phase, learned: Model | None, *, used: bool) -> Teach:
    """Returns the function images -> what the last phase's model says about them, for a loss that uses it.

    In phase 0 it says zeros of the same shapes, so that all phases share one graph. It says None where neither the loss
    has a use for it, nor the network, whose frozen backbones run with the teacher.
    """
    if not (used or experiment.network.grows):
        return lambda images: None
    if learned is None:
        some = experiment.network.init(0, 1)
        some = Model(*tree.cast(tuple(some), dtype=experiment.dtype, device=experiment.device))
        return experiment.forward.no_teacher(some, experiment.classes(phase, experiment.device))
    last = experiment.scenario.phases[phase.index - 1]  # in which the teacher was the student
    return experiment.forward.teacher(learned, experiment.classes(last, experiment.device))


def train(
    experiment: Experiment,
    phase: Phase,
    progress: Progress,
    student: Callable[[], Model],
    key: int,
    *,
    emit: Emit,
    hook: SaveHook,
    evaluate: Callable[..., dict],
) -> Progress:
    """Trains all stages of a phase, from where `progress` stands; returns the progress after the last one.

    student() -> the model that the phase starts from; evaluate(model, exemplars, by=...) -> a row of results, asked for
    between epochs.
    """
    learned, num_seen = progress.learned, sum(experiment.sizes(phase))

    def between_epochs(train_state: step.TrainState, epoch: int) -> None:
        # Not "top1": a phase's is after aligning, or by class means, which need exemplars of the new classes.
        model = _whole(experiment.network, train_state, learned, num_seen)
        emit({
            "event": "evaluation", "phase": phase.index, "epoch": epoch,
            "logits_top1": evaluate(model, {}, by="logits")["top1"],
        })

    for number, each in enumerate(experiment.method.stages_of(phase.index)):
        if progress.training and progress.training.number > number:
            continue  # an earlier run has done it
        fresh = progress.training is None or progress.training.number < number
        if fresh:
            progress = _begin(experiment, phase, progress, number, student, key)
        held, progress = [progress.training], replace(progress, training=None)
        data = _data(experiment, phase, progress.exemplars, number, key, held[0].chosen)
        recipe = fitted(experiment.recipe(phase.index, each.name), len(data.rows), experiment.processes)
        if fresh:
            emit(_started(experiment, phase, each.name, len(data.rows), recipe.epochs))
        name = {"stage": each.name} if each.name else {}
        done = stage.train(
            recipe,
            held.pop,  # the state that a stage begins with is not kept
            data,
            classes=experiment.classes(phase, experiment.device)._replace(counts=data.counts(experiment.num_classes)),
            teach=teacher(experiment, phase, learned, used=each.uses_teacher),
            key=rng.fold_in(key, "stage", each.name) if each.name else key,
            phase=phase.index,
            borders=Borders(
                emit=lambda event, name=name: emit({"event": event["event"], "phase": phase.index, **event, **name}),
                hook=StageHook(hook, progress),
                evaluate=between_epochs,
                alone=experiment.processes.size == 1,
            ),
            captured=experiment.captured,
            draws=experiment.draws,
        )
        progress = replace(progress, training=done)
    return progress


def _begin(
    experiment: Experiment, phase: Phase, progress: Progress, number: int, student: Callable[[], Model], key: int
) -> Progress:
    """The progress at the start of a stage: its train state, made of the model that the stage starts from."""
    method, network = experiment.method, experiment.network
    each, before = method.stages_of(phase.index)[number], progress.training
    if before is None:
        params, state = student()
        params = network.pad(params)
    else:
        params, state = before.train_state.params, before.train_state.state
    params, state = ({name: part for name, part in tree_.items() if name != "frozen"} for tree_ in (params, state))
    extra = progress.extra or (method.extra.start(params) if method.extra else {})
    train_state = step.start(each, experiment.recipe(phase.index, each.name).optimiser, params, state, extra)
    chosen = {}
    if each.rows == "balanced":
        model = _whole(network, train_state, progress.learned, sum(experiment.sizes(phase)))
        quota = max(map(len, progress.exemplars.values()), default=0)
        chosen = choose(experiment, phase, model, quota, key)
    training = StageProgress(
        train_state, step.nothing_measured(train_state), number=number, chosen=chosen,
        seconds=before.seconds if before else 0.0,
    )  # fmt: skip
    return replace(progress, training=training, extra=extra)


def _data(
    experiment: Experiment, phase: Phase, exemplars: Memory, number: int, key: int, chosen: Memory
) -> TrainingData:
    each = experiment.method.stages_of(phase.index)[number]
    trained = rows.of_stage(each, experiment.method, experiment.scenario, phase, exemplars, key=key, chosen=chosen)
    return TrainingData(
        experiment.train_images, experiment.scenario.train_labels, trained, experiment.augment, experiment.device
    )


def _started(experiment: Experiment, phase: Phase, stage_name: str, count: int, epochs: int) -> dict:
    """The event of a phase, or of a later stage of it, that begins to train on `count` images."""
    if stage_name:
        return {
            "event": "stage_start", "phase": phase.index, "stage": stage_name, "train_images": count, "epochs": epochs
        }  # fmt: skip
    return {
        "event": "phase_start", "phase": phase.index, "num_new": len(phase.classes), "classes": list(phase.classes),
        "class_names": [experiment.class_names[index] for index in phase.classes],
        "classes_seen": sum(experiment.sizes(phase)), "train_images": count, "epochs": epochs,
    }  # fmt: skip


def _whole(network: Network, train_state: step.TrainState, learned: Model | None, num_seen: int) -> Model:
    """The model in a train state, cut to the classes seen, with the frozen backbones that the step doesn't see."""
    model = Model(network.cut(train_state.params, num_seen), train_state.state)
    if not network.grows or learned is None:
        return model
    frozen = [part.get("frozen", {}) for part in learned]
    frozen = [old | {str(len(old)): part["backbone"]} for old, part in zip(frozen, learned, strict=True)]
    return Model(*({**part, "frozen": old} for part, old in zip(model, frozen, strict=True)))


def remember(experiment: Experiment, phase: Phase, learned: Model, extra: tree.Tree) -> tree.Tree:
    """Returns what the method remembers after a phase: its importances, say, measured on the phase's images."""
    method, network = experiment.method, experiment.network
    if method.extra is None:
        return extra
    params = network.pad(learned.params)
    passes = ModelPasses(
        network=network,
        model=Model(params, learned.state),
        classes=experiment.classes(phase, experiment.device),
        images=experiment.train_images,
        labels=experiment.scenario.train_labels,
        rows=phase.train_rows,
        preprocess=experiment.preprocess,
        batch_size=experiment.recipe(phase.index, "").batch_size,
        processes=experiment.processes,
    )
    return method.extra.after(extra, params, passes, passes.classes)


def select(experiment: Experiment, phase: Phase, learned: Model, exemplars: Memory, key: int) -> Memory:
    """Returns the memory after a phase: old classes keep their first exemplars, each new class gets its own."""
    budget, seen = experiment.budget, sum(experiment.sizes(phase))
    quota = memory.quota(seen, size=budget.size, fixed_per_class=budget.fixed_per_class)
    return memory.update(exemplars, choose(experiment, phase, learned, quota, key), quota)


def choose(experiment: Experiment, phase: Phase, learned: Model, quota: int, key: int) -> Memory:
    """Returns {label: rows} of the exemplars of each new class, `quota` at most, in order of rank."""
    processes, labels = experiment.processes, experiment.scenario.train_labels[phase.train_rows]
    features = experiment.forward.features(
        learned, experiment.train_images, phase.train_rows, when=f"phase {phase.index}"
    )                                                                              # (N, D), un-augmented
    seen, chosen = experiment.sizes(phase), {}
    for label in range(sum(seen[:-1]), sum(seen)):
        own = torch.nonzero(labels == label).flatten()
        picks = torch.zeros(min(quota, len(own)), dtype=torch.int64)
        if processes.first:  # once, whatever the others would choose
            key_of_label = rng.fold_in(key, "select", label)
            with processes.activity.long_work("choosing exemplars"):
                picks = memory.choose(features[own], quota, selection=experiment.budget.selection, key=key_of_label)
        chosen[label] = phase.train_rows[own[processes.broadcast(picks).cpu()]]
    return chosen


def evaluate(
    experiment: Experiment,
    phase: Phase,
    learned: Model,
    exemplars: Memory,
    *,
    before: Model | None = None,
    by: Literal["logits", "nme"] | None = None,
) -> dict:
    """Returns `evaluation.phase_row` on the test images of all classes seen.

    before: the model before aligning; None where nothing was aligned. by: how it predicts; None: as the method does.
    """
    tested = torch.cat([earlier.test_rows for earlier in experiment.scenario.phases[: phase.index + 1]])
    features = experiment.forward.features(learned, experiment.test_images, tested, when=f"phase {phase.index}")

    def logits_of(model: Model) -> torch.Tensor:
        params = tree.cast({name: part for name, part in model.params.items() if name in HEAD}, device="cpu")
        return experiment.network.outputs(params, features, experiment.classes(phase)).logits

    return evaluation.phase_row(
        logits_of(learned),
        features,
        experiment.scenario.test_labels[tested],
        experiment.sizes(phase),
        logits_before_align=None if before is None else logits_of(before),
        means=class_means(experiment, phase, learned, exemplars),
        predict=by or experiment.method.predict,
    )


def class_means(experiment: Experiment, phase: Phase, learned: Model, exemplars: Memory) -> torch.Tensor | None:
    """Returns the means (K, D) of the exemplars of each class seen, on the CPU; None without exemplars."""
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
    """Returns the measured part of results.json."""
    return {"phases": list(progress.rows), **evaluation.summary(list(progress.rows))}


def _agree(experiment: Experiment, phase: Phase, learned: Model, progress: Progress, extra: tree.Tree) -> None:
    """Raises CilError unless all processes have come to the same."""
    parts = {
        "the weights": learned,
        "the optimiser's state": progress.training.train_state.opt_state,
        "what the method remembers": extra,
        "the exemplars": [progress.exemplars[label] for label in sorted(progress.exemplars)],
        "the class order": torch.tensor(experiment.scenario.class_order),
    }
    experiment.processes.check_equal(parts, when=f"after phase {phase.index}")


def _norms(trained: tree.Tree, finished: tree.Tree) -> dict[str, list[float]]:
    """The norm of each class's row before and after aligning."""
    before, after = (params["classifier"]["weight"].flatten(1).norm(dim=1).tolist() for params in (trained, finished))
    return {"before_align": before, "after_align": after}
