"""What is learned, by which method and network: the record that the phase loop works on."""

from dataclasses import dataclass
from typing import Protocol

import torch

from cil_func.data.augmentation.augment import Augment
from cil_func.data.images import Images
from cil_func.data.scenario import Phase, Scenario
from cil_func.memory import Budget
from cil_func.methods.base import Method
from cil_func.networks.network import Network
from cil_func.networks.outputs import Classes, classes_of
from cil_func.parallel.processes import Processes
from cil_func.training.inference import Forward
from cil_func.training.preprocess import Preprocess
from cil_func.training.recipe import Recipe


class RecipeOf(Protocol):
    """(phase, stage name) -> how that stage is trained in phase 0, 1, ...; "" is a phase's first stage."""

    def __call__(self, phase: int, name: str, /) -> Recipe: ...


@dataclass(frozen=True)
class Experiment:
    """A method, a network and data, ready to run.

    class_names: by original index. test_images, train_images: labels and rows of `scenario` mean their rows.
    recipe: how each stage is trained. forward: runs the network.
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
    preprocess: Preprocess
    recipe: RecipeOf
    forward: Forward
    budget: Budget
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
