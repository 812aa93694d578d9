"""Runs a model over many images in eval mode: for evaluation, for the selection of exemplars, and as the teacher."""

from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from cil_func import tree
from cil_func.data import batches
from cil_func.data.augmentation.uploads import upload
from cil_func.data.images import Images, Part
from cil_func.errors import NonFiniteError
from cil_func.networks.network import Model, Network, backbone_parts
from cil_func.networks.outputs import Classes, Outputs
from cil_func.parallel.processes import ALONE, Processes
from cil_func.training.preprocess import Preprocess

# Pixels that the forward function takes at a time. On a CPU, activations that stay in the cache: 128 images of 32x32
FORWARD_PIXELS = {"cpu": 1 << 17, "cuda": batches.PILLOW_PIXELS["cuda"]}


class Teach(Protocol):
    """images uint8 (B, H, W, 3) -> what the teacher says about them; None: there is no teacher."""

    def __call__(self, images: torch.Tensor, /) -> Outputs | None: ...


class RunBackbone(Protocol):
    """(params, state, images) -> (features (B, D), aux) of one backbone in eval mode.

    params, state, aux: of one backbone, as `Network.run` has them. images: (B, H, W, 3) uint8.
    """

    def __call__(
        self, params: tree.Tree, state: tree.Tree, images: torch.Tensor, /
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...


def batch_size(device: torch.device, image_size: tuple[int, int]) -> int:
    """Returns how many images of (H, W) the forward function takes at a time on that device; at least 32."""
    height, width = image_size
    return max(32, FORWARD_PIXELS[device.type] // (height * width))


def forward_of(network: Network, preprocess: Preprocess, *, dtype: torch.dtype) -> RunBackbone:
    """Returns the function that runs one backbone in eval mode.

    dtype: of the convolutions. The head is left out: its shape grows with the classes, and each would be another graph.
    """

    def forward(params: tree.Tree, state: tree.Tree, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        features, aux, _ = network.run(params, state, preprocess(images, dtype), train=False)
        return features, aux

    return forward


@dataclass(frozen=True)
class Forward:
    """Runs all backbones of a model over images in eval mode, in batches.

    function: what `forward_of` returns, maybe compiled. batch_size: how many images it is called with at most. device:
    where it runs. fill: whether the last batch is filled up with black images to that size, so that a function compiled
    for it serves all calls. processes: those that share the work in `features`.
    """

    network: Network
    function: RunBackbone
    batch_size: int
    device: torch.device
    processes: Processes = field(default_factory=lambda: ALONE)
    fill: bool = False

    def outputs(
        self, model: Model, images: torch.Tensor, *, second: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns (features (N, feature_dim), aux of the newest backbone), on the device.

        images: (N, H, W, 3) uint8, wherever they are. aux: tensors by name, see `Network.run`. second: whether a
        backbone that is trained beside the newest one runs too.
        """
        features: torch.Tensor | None = None
        aux: dict[str, torch.Tensor] = {}
        parts = backbone_parts(model, second=second)
        for at, params, state in parts:
            own, aux = self._backbone(params, state, images)
            features = self.network.place(own, len(parts) - 1 if at is None else at, features)
        assert features is not None, "a model has a backbone"
        return features, aux

    def features(self, model: Model, images: Images, rows: torch.Tensor, *, when: str) -> torch.Tensor:
        """Returns the features (N, feature_dim) of the images at `rows` (N,), on the CPU. Each process computes a part.

        All processes have to call this together, and get all rows. when: begins the message of the error, "phase 1"
        say.
        Raises NonFiniteError if a feature is not finite.
        """
        parts = self.processes.split_rows(len(rows), self.batch_size)
        own = rows[parts[self.processes.rank]]
        batches = [Part(chunk, {}) for chunk in own.split(self.batch_size) if len(chunk)]
        with closing(images.stream(batches)) as loaded:
            found = [self.outputs(model, pixels)[0] for pixels in loaded]
        some = tree.leaves(model.params)[0]
        part = torch.cat(found) if found else some.new_empty(0, self.network.feature_dim)
        features = self.processes.gather_rows(part, parts).cpu()
        if not features.isfinite().all():
            raise NonFiniteError(f"{when}: the features are not finite; try a lower optim.learning_rate")
        return features

    def teacher(self, model: Model, classes: Classes) -> Teach:
        """Returns the function images, uint8 (B, H, W, 3) -> Outputs of a model, with logits (B, C) for all C classes.

        model: a phase's finished model, with a classifier of the K classes seen in that phase; this function pads it
        with rows of zeros to the run's C classes. classes: the `Classes` of that phase, not of the one in training.
        The images may be on any device; the outputs are on this object's device.
        """
        params = self.network.pad(model.params)

        def teach(images: torch.Tensor) -> Outputs:
            features, aux = self.outputs(model, images, second=True)
            return self.network.outputs(params, features, classes, aux)

        return teach

    def no_teacher(self, model: Model, classes: Classes) -> Teach:
        """Returns a function whose outputs are all 0, in the shapes of `teacher`'s. model: any one of the network."""
        height, width = self.network.image_size or (32, 32)
        image = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self.device)
        like = self.teacher(model, classes)(image)

        def teach(images: torch.Tensor) -> Outputs:
            return tree.map(lambda leaf: leaf.new_zeros(len(images), *leaf.shape[1:]), like)

        return teach

    def _backbone(
        self, params: tree.Tree, state: tree.Tree, images: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found, images = [], upload(images, self.device)
        if not len(images):  # of one black image: the shapes of what a batch of none gives
            some = self.function(params, state, images.new_zeros(1, *images.shape[1:]))
            return tree.map(lambda leaf: leaf[:0], some)
        for batch in images.split(self.batch_size):
            missing = self.batch_size - len(batch) if self.fill else 0
            filled = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else batch
            outputs = self.function(params, state, filled)
            found.append(tree.map(lambda leaf, batch=batch: leaf[: len(batch)], outputs))
        return found[0] if len(found) == 1 else tree.map(lambda *leaves: torch.cat(leaves), *found)
