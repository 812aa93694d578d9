"""The training of a phase: its stages, one after the other, and the teacher that they learn from."""

from dataclasses import replace
from functools import partial
from typing import Literal, Protocol

import torch

from cil_func import memory, rng, tree
from cil_func.data.scenario import Phase
from cil_func.memory import Memory
from cil_func.methods.checks import begun
from cil_func.methods.extra import without_logits
from cil_func.networks.network import Model, with_frozen
from cil_func.training import memory_pools, rows, stage, step_state
from cil_func.training.definition import Experiment
from cil_func.training.events import Emit
from cil_func.training.inference import Teach
from cil_func.training.progress import Progress, SaveHook, StageHook, StageProgress
from cil_func.training.recipe import fitted
from cil_func.training.stage import Borders, TrainingData
from cil_func.training.whole_model import whole


class Student(Protocol):
    """() -> the model that a phase starts from."""

    def __call__(self) -> Model: ...


class TeachOf(Protocol):
    """(used) -> the teacher of a stage, see `teacher`."""

    def __call__(self, *, used: bool) -> Teach: ...


class Evaluate(Protocol):
    """(model, exemplars, by, on) -> a row of results, see `experiment.evaluate`."""

    def __call__(
        self,
        learned: Model,
        exemplars: Memory,
        /,
        *,
        by: Literal["logits", "nme"] | None = None,
        on: Literal["test", "validation"] = "test",
    ) -> dict: ...


def teacher(experiment: Experiment, phase: Phase, learned: Model | None, *, used: bool) -> Teach:
    """Returns the function images, uint8 (B, H, W, 3) -> the outputs of the last phase's model for them, or None.

    learned: that model, finished; None in phase 0, where all outputs are 0, in the same shapes, so that all phases
    share one graph. used: `Stage.uses_teacher`. The function returns None if neither the loss uses a teacher nor the
    network adds backbones: frozen ones run together with the teacher.
    """
    if not (used or experiment.network.adds_backbone):
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
    student: Student,
    teach: TeachOf,
    key: int,
    *,
    emit: Emit,
    hook: SaveHook[Progress],
    evaluate: Evaluate,
) -> Progress:
    """Trains all stages of a phase, from where `progress` stands; returns the progress after the last one.

    student: called only if no stage was begun before. teach: gives the teacher of each stage. key: the phase's.
    emit: takes the events. hook: may save and stop the run. evaluate: called between epochs.
    A later stage without an image to train on is left out.
    """
    learned = progress.learned

    def between_epochs(number: int, train_state: step_state.TrainState, epoch: int) -> None:
        # Not "top1": a phase's is after aligning, or by class means, which need exemplars of the new classes.
        model = whole(experiment, phase, learned, train_state, number)
        # Who chooses a number of epochs by these numbers must not choose it by the test images.
        on: Literal["test", "validation"] = "validation" if len(phase.validation_rows) else "test"
        event = {
            "event": "evaluation", "phase": phase.index, "epoch": epoch,
            "logits_top1": evaluate(model, {}, by="logits", on=on)["top1"],
        }  # fmt: skip
        emit(event if on == "test" else event | {"on": on})

    for number, each in enumerate(experiment.method.stages_of(phase.index)):
        if progress.training and progress.training.number > number:
            continue  # an earlier run has done it
        fresh = progress.training is None or progress.training.number < number
        if fresh:
            progress = _begin(experiment, phase, progress, number, student, key)
        held, progress = [progress.stage], replace(progress, training=None)
        own = held[0].before
        data = _data(experiment, phase, progress, number, key, held[0].chosen)
        if not len(data):  # of a later stage, whose exemplars are too few; the plan warns of it
            progress = replace(progress, training=held[0])
            continue
        beside = max((len(pool.rows) for pool in data.pools), default=0)
        recipe = experiment.recipe(phase.index, each.name)
        recipe = fitted(recipe, len(data), experiment.processes, beside=beside)
        if fresh:
            emit(_started(experiment, phase, each.name, len(data), recipe.epochs))
        name = {"stage": each.name} if each.name else {}
        done = stage.train(
            recipe,
            held.pop,  # the state that a stage begins with is not kept
            data,
            classes=experiment.classes(phase, experiment.device)._replace(
                counts=data.counts(experiment.num_classes),
                progress=torch.zeros((), dtype=experiment.dtype, device=experiment.device),
            ),
            teach=_teacher_before(experiment, phase, own, learned) if own else teach(used=each.uses_teacher),
            key=rng.fold_in(key, "stage", each.name) if each.name else key,
            phase=phase.index,
            borders=Borders(
                emit=lambda event, name=name: emit({"event": event["event"], "phase": phase.index, **event, **name}),
                hook=StageHook(hook, progress),
                evaluate=partial(between_epochs, number),
                alone=experiment.processes.size == 1,
            ),
            captured=experiment.captured,
            draws=experiment.draws,
        )
        progress = replace(progress, training=done)
    return progress


def _teacher_before(experiment: Experiment, phase: Phase, before: Model, learned: Model | None) -> Teach:
    """Returns the function images -> the outputs of the model that a stage of this phase began with.

    before: see `StageProgress`. learned: the last phase's finished model, which has the frozen backbones.
    """
    model = with_frozen(before, learned) if experiment.network.adds_backbone and learned else before
    return experiment.forward.teacher(model, experiment.classes(phase, experiment.device))


def _begin(
    experiment: Experiment, phase: Phase, progress: Progress, number: int, student: Student, key: int
) -> Progress:
    """Returns the progress at the start of a stage: its train state, made of the model that the stage starts from.

    number: of the stage in its phase, 0, 1, ... student() -> the model that the phase starts from, called for stage 0
    alone; a later stage starts from the params and state that the one before it ended with, or, if it compresses, from
    the last phase's model. key: the phase's.
    """
    method, network = experiment.method, experiment.network
    each, before = method.stages_of(phase.index)[number], progress.training
    if before is None:
        params, state = student()
        params = network.pad(params)
    else:
        params, state = before.train_state.params, before.train_state.state
    params, state = ({name: part for name, part in tree_.items() if name != "frozen"} for tree_ in (params, state))
    found = Model(params, state)
    if each.compresses and progress.learned:
        key_of_rows = rng.fold_in(key, "stage", each.name)
        params, state = network.single(progress.learned, key_of_rows, len(phase.classes))
        params = network.pad(params)
    read, logits = without_logits(progress.remembered)
    if method.extra and before is None:
        read = begun(method.extra, read, params, experiment.classes(phase, experiment.device))
    train_state = step_state.start(each, experiment.recipe(phase.index, each.name).optimiser, params, state, read)
    chosen = {}
    if each.rows == "balanced":
        model = whole(experiment, phase, progress.learned, train_state, number)
        quota = max(map(len, progress.exemplars.values()), default=0)
        chosen = choose(experiment, phase, model, quota, key)
    training = StageProgress(
        train_state, step_state.nothing_measured(train_state), number=number, chosen=chosen,
        seconds=before.seconds if before else 0.0, before=found if each.teacher == "before" else None,
    )  # fmt: skip
    return replace(progress, training=training, extra={**read, **logits})


def _data(
    experiment: Experiment, phase: Phase, progress: Progress, number: int, key: int, chosen: Memory
) -> TrainingData:
    each = experiment.method.stages_of(phase.index)[number]
    exemplars = progress.exemplars
    trained = rows.of_stage(each, experiment.method, experiment.scenario, phase, exemplars, key=key, chosen=chosen)
    return TrainingData(
        experiment.train_images, experiment.scenario.train_labels, trained, experiment.augment, experiment.device,
        memory_pools.of_phase(each.replay, experiment, phase, exemplars, progress.extra) if each.replay else (),
        each.views,
    )  # fmt: skip


def _started(experiment: Experiment, phase: Phase, stage_name: str, count: int, epochs: int) -> dict:
    """Returns the event that a phase begins to train, or, for a stage with a name, that this stage does.

    count: how many images it trains on.
    """
    if stage_name:
        return {
            "event": "stage_start", "phase": phase.index, "stage": stage_name, "train_images": count, "epochs": epochs
        }  # fmt: skip
    return {
        "event": "phase_start", "phase": phase.index, "num_new": len(phase.classes), "classes": list(phase.classes),
        "class_names": [experiment.class_names[index] for index in phase.classes],
        "classes_seen": sum(experiment.sizes(phase)), "train_images": count, "epochs": epochs,
    }  # fmt: skip


def choose(experiment: Experiment, phase: Phase, learned: Model, quota: int, key: int) -> Memory:
    """Returns {label: rows} of the exemplars of each new class, in order of rank.

    rows: int64, of the training set; `quota` of them, or all if the class has fewer. learned: the model whose features,
    of un-augmented images, decide. key: the phase's. The first process chooses, the others receive its choice.
    """
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
