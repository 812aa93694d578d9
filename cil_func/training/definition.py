"""What is learned, by which method and network: the record that the phase loop works on."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from cil_func import memory
from cil_func.data.augmentation.augment import Augment
from cil_func.data.images import Images
from cil_func.data.scenario import Phase, Scenario
from cil_func.memory import Budget, Memory
from cil_func.methods.base import Method
from cil_func.networks.network import Network
from cil_func.networks.outputs import Classes, classes_of
from cil_func.parallel.processes import Processes
from cil_func.training.inference import Forward
from cil_func.training.preprocess import Preprocess
from cil_func.training.recipe import Recipe
from cil_func.tree import Tree


class RecipeOf(Protocol):
    """(phase, stage name) -> the recipe of that stage in phase 0, 1, ...; "" is the name of a phase's first stage."""

    def __call__(self, phase: int, name: str, /) -> Recipe: ...


@dataclass(frozen=True)
class Experiment:
    """A method, a network and data, ready to run.

    scenario: the phases, and the labels of all images. class_names: by original index.
    train_images, test_images: row i has label i of the scenario's train_labels, or test_labels.
    augment: of training images. preprocess: from pixels to what the network is given; its tensors' device and dtype are
    the run's.
    recipe(phase, stage name) -> how that stage is trained. forward: runs the network in eval mode.
    budget: how many exemplars are kept and how they are chosen. seed: from which all random draws follow.
    captured: whether steps are captured as a CUDA graph. draws: whether the backbone draws random numbers in train
    mode.
    processes: those that share the work.
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
        """The dtype of parameters and statistics."""
        return self.preprocess.mean.dtype

    @property
    def num_classes(self) -> int:
        return len(self.scenario.class_order)

    def sizes(self, phase: Phase) -> list[int]:
        """Returns how many classes each phase brings, from phase 0 up to this one, this one included."""
        return [len(earlier.classes) for earlier in self.scenario.phases[: phase.index + 1]]

    def judged_on(
        self, phase: Phase, on: Literal["test", "validation"]
    ) -> tuple[Images, torch.Tensor, torch.Tensor]:
        """Returns (images, labels (N,) of all of them, rows (M,)): on which a model is judged after a phase.

        on: whether the rows are the test images of all classes seen, or those kept for validation.
        """
        seen, scenario = self.scenario.phases[: phase.index + 1], self.scenario
        if on == "test":
            return self.test_images, scenario.test_labels, torch.cat([each.test_rows for each in seen])
        return self.train_images, scenario.train_labels, torch.cat([each.validation_rows for each in seen])

    def classes(self, phase: Phase, device: torch.device | str = "cpu") -> Classes:
        """Returns the `Classes` of a phase: which of the run's C classes are seen by its end or old.

        It also says in which phase each class arrives. It has neither counts nor progress. device: where its tensors
        are made.
        """
        return classes_of(self.sizes(self.scenario.phases[-1]), phase.index, device=device)

    def bytes_kept(self, phase: Phase, params: Tree, exemplars: Memory, extra: Tree) -> dict[str, int]:
        """Returns `memory.in_bytes` after a phase; a method that trains on all images of all classes seen keeps them.

        params: the model's. exemplars: of all classes seen. extra: what the method remembers.
        """
        seen = self.scenario.phases[: phase.index + 1]
        images = sum(len(each.train_rows) for each in seen) if self.method.rows == "all" else memory.size(exemplars)
        return memory.in_bytes(images, self.train_images.shape, params=params, extra=extra)
