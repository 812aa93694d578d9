"""How long a run will take, from real steps of its configuration that are timed on this machine.

Timed are steps of phase 0 and of the first phase with old classes, and the forward pass of evaluation. The weights are
random. An image of an epoch costs what it costs to load, augment and teach it, by the chunk, and its share of a step.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cil_func.data import batches
from cil_func.data.scenario import Phase
from cil_func.errors import NonFiniteError
from cil_func.experiment import Experiment
from cil_func.memory import Memory
from cil_func.report.time_left import duration
from cil_func.runs import counting, output, trial_steps
from cil_func.runs.setup import Setup
from cil_func.training import runners
from cil_func.training.progress import Progress, SaveHook

_SECONDS = 2.0  # for which steps of a phase are timed, once they are warm
_EPOCHS = 3  # that are enough if they are shorter; the first one warms up
_STEPS = 5  # that are timed at least
_IMAGES = 512  # that the forward pass is timed on


class Estimate(NamedTuple):
    """Seconds that a run takes. training, evaluation: of all phases. compiling: what it took here; 0: nothing."""

    training: float
    evaluation: float
    compiling: float


@dataclass
class _Marks(SaveHook[Progress]):
    """Notes when chunks and steps of a training begin and end, and leaves it when enough are timed.

    device: whose work is waited for. chunks: when each wait for a chunk began. steps: (when it had ended, how many
    chunks had begun by then, images). epochs: (images, seconds) of each. compiling: seconds.
    """

    device: torch.device
    chunks: list[float] = field(default_factory=list)
    steps: list[tuple[float, int, int]] = field(default_factory=list)
    epochs: list[tuple[int, float]] = field(default_factory=list)
    compiling: float = 0.0

    def before_long_work(self, make: Callable[[], Progress]) -> None:
        self.chunks.append(self._now())

    def emit(self, event: dict) -> None:
        """Takes the training's events. Raises EnoughError."""
        kind = event["event"]
        if kind == "compiled":
            self.compiling += event["seconds"]
        elif kind == "progress":
            self.steps.append((self._now(), len(self.chunks), event["images"]))
        elif kind == "epoch":
            self.epochs.append((event["images"], event["seconds"]))
        if len(self.epochs) >= _EPOCHS or (kind == "progress" and self._is_enough()):
            raise trial_steps.EnoughError

    def _is_enough(self) -> bool:
        """Returns whether steps were timed for long enough; with something to compile that begins after a chunk."""
        first = next((at for at, (_, chunks, _) in enumerate(self.steps) if chunks > 1), 0) if self.compiling else 0
        timed = self.steps[first + 1 :]
        if self.compiling and not first:
            return False
        return len(timed) >= _STEPS and timed[-1][0] - self.steps[first][0] > _SECONDS

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def image_seconds(self, chunk_images: int) -> float:
        """Returns the seconds that an image of an epoch takes. chunk_images: how many images a whole chunk has."""
        if len(self.epochs) > 1 or (self.epochs and len(self.steps) <= _STEPS):
            whole = self.epochs[1:] or self.epochs  # the first one warms up
            return sum(seconds for _, seconds in whole) / sum(images for images, _ in whole)
        gaps = [
            (later[0] - earlier[0], later[1] > earlier[1], later[2])
            for earlier, later in zip(self.steps, self.steps[1:], strict=False)
        ]
        within = [gap / images for gap, crosses, images in gaps if not crosses]
        if not within:  # each step has a chunk of its own
            return statistics.median([gap / images for gap, _, images in gaps] or [0.0])
        step = statistics.median(within)
        firsts = {chunks: (end, images) for end, chunks, images in reversed(self.steps)}  # the first step of each chunk
        waits = [end - self.chunks[chunks - 1] - step * images for chunks, (end, images) in sorted(firsts.items())]
        known = waits[1:] if self.compiling else waits  # the first wait was for the compiler
        return step + max(0.0, statistics.median(known or [0.0])) / chunk_images


def measure(setup: Setup) -> Estimate:
    """Times steps and the forward pass, and returns what the run takes. Trains with random weights and keeps nothing.

    Takes a few seconds, or, if the step is compiled, what compiling takes and a few chunks of batches.
    Raises NonFiniteError if a loss of the random weights is not finite.
    """
    made, first = setup.experiment, setup.first_phase
    phases = made.scenario.phases[first:]
    seconds: dict[bool, float] = {}
    forward, compiling = _forward_seconds(made, phases[0])
    for phase in (phases[0], *phases[1:2]):
        if (phase.index > 0) in seconds:
            continue
        marks = _Marks(made.device)
        with runners.reported(marks.emit):
            trial_steps.train(made, phase, emit=marks.emit, hook=marks, exemplars=_exemplars(made, phase))
        recipe = made.recipe(phase.index, "")
        by_pillow = made.augment.by_pillow
        length = batches.chunk_steps(made.train_images, recipe.batch_size, made.device, by_pillow=by_pillow)
        seconds[phase.index > 0] = marks.image_seconds(length * recipe.batch_size)
        compiling += marks.compiling
    training = sum(_images_trained(made, phase) * seconds[phase.index > 0] for phase in phases)
    evaluation = sum(_images_passed(made, phase) for phase in phases) * forward
    return Estimate(training, evaluation, compiling)


def of(setup: Setup) -> list[str]:
    """Returns the plan's lines about the time of a run, of one process, which it measures; see `measure`."""
    if setup.config.run.compile:
        output.tell("timing steps; this compiles them, and the run finds that in the compiler's cache")
    try:
        return lines(measure(setup))
    except NonFiniteError:  # of random weights, which the run may not have
        return ["time: not known, since the loss of the random weights it was timed with is not finite"]


def lines(estimate: Estimate) -> list[str]:
    """Returns the plan's lines about time. estimate: from `measure`."""
    total = duration(estimate.training + estimate.evaluation)
    found = [
        f"time: about {total} on this machine now, of which training {duration(estimate.training)} and evaluation "
        f"{duration(estimate.evaluation)}, by steps that were timed"
    ]
    if estimate.compiling:
        found.append(
            f"compiling took {duration(estimate.compiling)} here, which isn't counted; the run finds it in the "
            "compiler's cache"
        )
    return found


def _exemplars(made: Experiment, phase: Phase) -> Memory:
    """Returns as many images of each old class as the run has exemplars when the phase begins."""
    rows = torch.cat([each.train_rows for each in made.scenario.phases])
    labels = made.scenario.train_labels[rows]
    counts = counting.exemplars(made, phase.index)
    return {label: rows[labels == label][:count] for label, count in enumerate(counts)}


def _forward_seconds(made: Experiment, phase: Phase) -> tuple[float, float]:
    """Returns (seconds of the forward pass for one image, seconds of compiling it)."""
    marks = _Marks(made.device)
    model = trial_steps.drawn(made, [sum(made.sizes(phase))])
    images, _, rows = made.judged_on(phase, "test")
    some_rows = rows.repeat(-(-_IMAGES // len(rows)))[:_IMAGES]
    with runners.reported(marks.emit):
        made.forward.features(model, images, some_rows[: made.forward.batch_size], when="timing")
        start = marks._now()
        made.forward.features(model, images, some_rows, when="timing")
    return (marks._now() - start) / len(some_rows), marks.compiling


def _images_trained(made: Experiment, phase: Phase) -> int:
    """Returns how many images all epochs of all stages of a phase have."""
    return sum(
        made.recipe(phase.index, stage.name).epochs * counting.stage_images(made, stage, phase.index)
        for stage in made.method.stages_of(phase.index)
    )


def _images_passed(made: Experiment, phase: Phase) -> int:
    """Returns how many images a phase takes through the forward pass outside of training.

    Test and validation images of all classes seen, once and for each evaluation between epochs; new images, of which
    exemplars are selected, and the exemplars, for the class means.
    """
    seen = made.scenario.phases[: phase.index + 1]
    tests = sum(len(each.test_rows) for each in seen)
    kept = sum(len(each.validation_rows) for each in seen if each.validation_rows is not each.test_rows)
    recipe = made.recipe(phase.index, "")
    between = (recipe.epochs - 1) // recipe.eval_every_epochs if recipe.eval_every_epochs else 0
    own = len(phase.train_rows) + sum(counting.exemplars(made, phase.index + 1)) if made.method.uses_memory else 0
    # A last stage is a third of a ResNet of this package.
    backbones = {"backbone": phase.index + 1, "stage": 1 + phase.index / 3}.get(made.network.grow, 1)
    return round(backbones * (tests + kept + between * (kept or tests) + own))
