"""Passes over the images of a phase, un-augmented, in eval mode: what a method measures to remember (`Extra.after`)."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import torch

from cil_func import rng, tree
from cil_func.data.augmentation.uploads import upload
from cil_func.data.images import Images, Part
from cil_func.methods.extra import Measure
from cil_func.networks.network import Model, Network, backbone_parts
from cil_func.networks.outputs import Classes
from cil_func.parallel.processes import Processes
from cil_func.training.preprocess import Preprocess
from cil_func.tree import Tree

_AT_ONCE = 16  # images whose gradients are in memory at a time


@dataclass(frozen=True)
class ModelPasses:
    """Averages what a method measures on a model over some images, by `mean`. A `methods.extra.Passes`.

    The images are not augmented, and the model runs in eval mode, on the device of `preprocess` and in its dtype.

    network, model: the network and its tensors; the model's classifier is padded with zeros to the run's C classes.
    classes: which of the C classes are seen by the end of the phase, on the same device.
    images, labels: N of each; labels: int64 (N,). rows: int64 (M,), on the CPU, M > 0: the numbers of the images, and
    of their labels, that `mean` averages over; exemplars: those of old classes, which may be none. preprocess:
    normalises the uint8 pixels.
    batch_size: how many images a batch of `mean(..., by="batch")` has. key: an int seed, from which the order of the
    images in these batches is drawn. processes: those that share the images, in whole batches.
    """

    network: Network
    model: Model
    classes: Classes
    images: Images
    labels: torch.Tensor
    rows: torch.Tensor
    preprocess: Preprocess
    batch_size: int
    key: int
    processes: Processes
    exemplars: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def mean(
        self, measure: Measure, *, by: Literal["image", "batch"], of: Literal["new", "exemplars"] = "new"
    ) -> Tree:
        """Returns the mean of `measure` over all images; see `Passes.mean`. All processes must call it."""
        size, rows = _AT_ONCE, self.rows if of == "new" else self.exemplars
        if by == "batch":  # as in training: rows may be sorted by class, and gradients of one class add up otherwise
            order = torch.randperm(len(rows), generator=rng.generator(self.key))
            size, rows = self.batch_size, rows[order]
        total = None
        for images, labels in self._batches(rows, size):
            self.processes.activity.count_progress()
            part = self._of_each(measure, images, labels) if by == "image" else self._of_all(measure, images, labels)
            total = part if total is None else tree.map(torch.add, total, part)
        if total is None:  # of more processes than batches, or without exemplars
            image, label = self._prepared(self.images.gather(self.rows[:1]), self.rows[:1])
            total = tree.map(torch.zeros_like, self._of_all(measure, image, label))
        return tree.map(lambda leaf: leaf / max(1, len(rows)), self.processes.sum(total))

    def _of_each(self, measure: Measure, images: torch.Tensor, labels: torch.Tensor) -> Tree:
        """Returns the sum over images of what is measured on each alone."""

        def of_one(image: torch.Tensor, label: torch.Tensor) -> Tree:
            return measure(self.model.params, lambda params: self._logits(params, image[None]), label[None])

        return tree.map(lambda leaf: leaf.sum(0), torch.func.vmap(of_one)(images, labels))

    def _of_all(self, measure: Measure, images: torch.Tensor, labels: torch.Tensor) -> Tree:
        """Returns what is measured on a batch, times its number of images."""
        found = measure(self.model.params, lambda params: self._logits(params, images), labels)
        return tree.map(lambda leaf: leaf * len(labels), found)

    def _logits(self, params: Tree, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor | None = None
        aux: dict[str, torch.Tensor] = {}
        for at, weights, state in backbone_parts(Model(params, self.model.state)):
            own, aux, _ = self.network.run(weights, state, images, train=False)
            features = self.network.place(own, self.classes.now if at is None else at, features)
        assert features is not None  # a model has a backbone
        return self.network.outputs(params, features, self.classes, aux).logits

    def _batches(self, rows: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields (preprocessed images, labels) of each of this process's batches of `size` rows."""
        own = rows[self.processes.split_rows(len(rows), size)[self.processes.rank]]
        parts = [Part(rows, {}) for rows in own.split(size) if len(rows)]
        with closing(self.images.stream(parts)) as loaded:
            for part, pixels in zip(parts, loaded, strict=True):
                yield self._prepared(pixels, part.rows)

    def _prepared(self, pixels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.preprocess.mean.device
        images = upload(pixels, device)
        return self.preprocess(images, self.preprocess.mean.dtype), self.labels[rows].to(device)
