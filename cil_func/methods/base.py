"""What a method is: a record of functions and numbers. Two methods differ in nothing else.

Everything but `name` and `loss` has a default, which is plain fine-tuning. `Method` is the whole method, `Stage` one
training of a phase, `Extra` what the method remembers between phases, `networks.head.Head` what turns features into
logits. The types of the functions in them are those of `methods.functions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cil_func.methods.extra import Extra
from cil_func.methods.functions import (
    Combine,
    FaultOf,
    FaultOfMaps,
    Finish,
    Imprint,
    Loss,
    Penalty,
    Project,
    Rectify,
    ReplayLoss,
    Targets,
    Track,
    Trainable,
)  # fmt: skip
from cil_func.networks.head import LINEAR, BeginPhase, Head
from cil_func.networks.outputs import Classes, Outputs, Taps
from cil_func.tree import Tree

__all__ = [
    "Classes", "Combine", "FaultOf", "FaultOfMaps", "Finish", "Imprint", "Loss", "Method", "Options", "Outputs",
    "Penalty", "Project", "Rectify", "Replay", "ReplayLoss", "Stage", "Targets", "Track", "Trainable", "nothing",
]  # fmt: skip


def _unchanged(params: Tree) -> Tree:
    return params


def _as_grown(params: Tree, num_new: int, phase: int, key: int) -> Tree:
    return params


def _no_fault(given: Sequence[int] | int) -> str:
    return ""


def _no_finish(params: Tree, num_new: int) -> tuple[Tree, None]:
    return params, None


def _everything(path: str) -> bool:
    return True


def nothing(path: str) -> bool:
    """Returns False: no part of a model is frozen. The default of `Stage.frozen`."""
    return False


@dataclass(frozen=True)
class Options:
    """The numbers and choices of the [method] table. A method ignores those that it has no use for.

    temperature, kd_combination, kd_weight: of the distillation KD from the last phase's model, which `distillation.add`
    adds to a method's cross-entropy CE. temperature: above 0, divides the logits of both models before the softmax.
    kd_combination: "convex": the loss is (1 - w) CE + w KD; "sum": CE + w KD. kd_weight: w, a number from 0, or
    "dynamic": number of old classes / number of classes seen.
    clip_weights: whether `wa` clips the classifier's weights to at least 0 after each update.
    align: whether `wa`, `der`, `memo` and `tagfex` align the classifier's rows at the end of a phase.
    label_smoothing: of the cross-entropy, from 0 to below 1.
    lwf_classes: the classes over which `lwf` takes the cross-entropy of a later phase: "new": the phase's own; "seen":
    all that are seen.
    """

    temperature: float = 2.0
    kd_combination: Literal["convex", "sum"] = "convex"
    kd_weight: float | Literal["dynamic"] = "dynamic"
    clip_weights: bool = False
    align: bool = True
    label_smoothing: float = 0.0
    lwf_classes: Literal["new", "seen"] = "new"


@dataclass(frozen=True)
class Replay:
    """Exemplars that come beside each batch, and what their gradients do to the batch's.

    Groups of them are drawn anew for each step, augmented as other images are, and run through the network group by
    group, in norm groups of their own. Batch norm's running statistics move towards the mean over all images of a step.
    loss, combine: see their types.
    groups: how many groups, each drawn from all exemplars; "phases": a group for each earlier phase, from its classes'.
    images: how many a group has, or all exemplars if there are fewer; 0: as many as a batch.
    stores: whether the logits of an exemplar, by the finished model of the phase that chose it, are stored.
    """

    loss: ReplayLoss
    combine: Combine
    groups: int | Literal["phases"] = 1
    images: int = 0
    stores: bool = False


@dataclass(frozen=True)
class Stage:
    """One training of a phase: a loss, the images that it trains on, what it changes.

    name: "" is the training that each phase begins with. A hyperparameter comes from the first of these that has it:
    the user's table [optim.NAME]; this stage's `optim`, {key of [optim]: default}; for "" in phase 0
    [optim.first_phase]; the table [optim].
    rows: "new": the phase's images and the exemplars, without those held out; "all": all images of all classes seen;
    "arrived": the phase's images alone;
    "balanced": the exemplars, and of each new class as many images as the largest number kept of an old class, selected
    by the rule for exemplars; "held_out": those that `Method.hold_out` keeps from training.
    trainable(path): whether a parameter is trained. frozen(path): whether a parameter or a number of the state stays as
    it is all the same, since model.freeze or the method says so. rows_trained: "new": of the classifier, only the new
    classes' rows move; weight decay leaves the others alone too.
    norm: "eval": batch norm uses its running statistics, which stay as they are, and there is no dropout.
    clamp: the loss's gradient is cut, entry by entry, to at most this absolute value; 0: no limit.
    penalty: its gradient is added after that; it is not part of the reported loss. None: nothing is added.
    project: applied to the params after each update. uses_teacher: whether the loss needs a teacher, see `Loss`.
    teacher: "last": the last phase's finished model; "before": the model that this stage begins with.
    track: what the method remembers is renewed by it after each update; None: a step only reads that.
    replay: exemplars that come beside each batch; None: there are none.
    compresses: of a stage of a method with grow = "pair": it begins with the last phase's finished model and drawn rows
    for the new classes, trains this backbone alone, and the phase ends with it.
    views: how many rows of a batch show an image, side by side, each augmented by draws of its own. With more than 1
    the loss is called for each norm group alone, since it compares images; the mean counts all images equally.
    """

    name: str
    loss: Loss
    rows: Literal["new", "all", "arrived", "balanced", "held_out"] = "new"
    trainable: Trainable = _everything
    rows_trained: Literal["all", "new"] = "all"
    norm: Literal["train", "eval"] = "train"
    penalty: Penalty | None = None
    project: Project = _unchanged
    uses_teacher: bool = False
    teacher: Literal["last", "before"] = "last"
    clamp: float = 0.0
    track: Track | None = None
    replay: Replay | None = None
    compresses: bool = False
    views: int = 1
    optim: dict[str, Any] = field(default_factory=dict)
    frozen: Trainable = nothing

    def trains(self, path: str) -> bool:
        """Returns whether this stage changes the parameter at a path, such as "classifier.weight"."""
        return self.trainable(path) and not self.frozen(path)


@dataclass(frozen=True)
class Method:
    """A method of class-incremental learning.

    loss, rows, trainable, frozen, rows_trained, norm, penalty, project, uses_teacher, clamp, track, replay, views: of a
    phase's training, as in `Stage`.
    finish: called after all trainings of a phase that has old classes. predict: by "logits" or by "nme", the nearest
    class mean. rectify: changes the logits of a finished model, in results and in the saved model; None: they stay.
    restart: whether each phase starts from a fresh initialisation. uses_memory: whether exemplars are kept.
    fault_of, fault_of_maps: why phases of some sizes can't be learned, and a backbone's feature maps not be used.
    head, taps, final_relu: of the network, see `networks.network.Network`. grow: "backbone": each phase trains a new
    backbone beside the earlier ones, which are frozen; "pair": beside the last one, until a stage compresses both;
    "stage": a new last stage beside the earlier ones, on a shared rest of the backbone (the method says what is
    frozen); "rows": only the classifier grows. beside, begin: of the network too: whether a second backbone is trained
    beside the newest one, by the loss alone; and what a later phase starts from.
    extra: what is remembered; None: nothing. imprint: sets the new rows; None: they stay as drawn. imprints: from the
    images of the "new" classes, or of all classes "seen", of old ones the exemplars.
    stages: more trainings, which follow in phases that have old classes.
    hold_out: share of each old class's exemplars that is kept from training, for stages on "held_out" rows, and of each
    new class as many images as that is of the largest old one; 0: none. With it, others have "new" rows and no replay.
    trained: in which phases there are epochs at all: "first" is phase 0 alone.
    """

    name: str
    loss: Loss
    finish: Finish = _no_finish
    project: Project = _unchanged
    trainable: Trainable = _everything
    predict: Literal["logits", "nme"] = "logits"
    rows: Literal["new", "all", "arrived"] = "new"
    restart: bool = False
    fault_of: FaultOf = _no_fault
    uses_memory: bool = False
    uses_teacher: bool = False
    rows_trained: Literal["all", "new"] = "all"
    penalty: Penalty | None = None
    clamp: float = 0.0
    track: Track | None = None
    replay: Replay | None = None
    views: int = 1
    head: Head = LINEAR
    taps: Taps | None = None
    fault_of_maps: FaultOfMaps = _no_fault
    final_relu: bool = True
    grow: Literal["rows", "backbone", "stage", "pair"] = "rows"
    beside: bool = False
    begin: BeginPhase = _as_grown
    extra: Extra | None = None
    imprint: Imprint | None = None
    imprints: Literal["new", "seen"] = "new"
    rectify: Rectify | None = None
    stages: tuple[Stage, ...] = ()
    hold_out: float = 0.0
    frozen: Trainable = nothing
    norm: Literal["train", "eval"] = "train"
    trained: Literal["always", "first", "never"] = "always"

    @property
    def main(self) -> Stage:
        """The training that each phase begins with, as a stage; its name is ""."""
        return Stage(
            name="",
            loss=self.loss,
            rows=self.rows,
            trainable=self.trainable,
            rows_trained=self.rows_trained,
            norm=self.norm,
            penalty=self.penalty,
            project=self.project,
            uses_teacher=self.uses_teacher,
            clamp=self.clamp,
            frozen=self.frozen,
            track=self.track,
            replay=self.replay,
            views=self.views,
        )

    def freeze(self, frozen: Trainable) -> "Method":
        """Returns the method with these parts of the model frozen too in all of its trainings, see `Stage`."""

        def both(own: Trainable) -> Trainable:
            return frozen if own is nothing else lambda path: own(path) or frozen(path)

        stages = tuple(replace(stage, frozen=both(stage.frozen)) for stage in self.stages)
        return replace(self, frozen=both(self.frozen), stages=stages)

    def trains_in(self, phase: int) -> bool:
        """Returns whether phase `phase` (0, 1, ...) has epochs of training."""
        return self.trained == "always" or (self.trained == "first" and phase == 0)

    def stages_of(self, phase: int) -> tuple[Stage, ...]:
        """Returns the trainings of phase `phase` (0, 1, ...), in order: in phase 0 `main` alone."""
        return (self.main, *self.stages) if phase else (self.main,)
