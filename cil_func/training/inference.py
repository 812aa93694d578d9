"""Runs a model forward over many images, in eval mode: evaluation, selection, and the teacher."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cil_func import classifier, model, tree
from cil_func.data import batches
from cil_func.data.augmentation.operations import upload
from cil_func.methods import Outputs
from cil_func.training.step import Preprocess

# Pixels that the forward graph takes at a time. On a CPU, activations that stay in the cache: 128 images of 32x32
FORWARD_PIXELS = {"cpu": 1 << 17, "cuda": batches.PILLOW_PIXELS["cuda"]}


def batch_size(device: torch.device, images: torch.Tensor) -> int:
    """How many of the images (N, H, W, 3) the forward function takes at a time on that device."""
    height, width = images.shape[1:3]
    return max(32, FORWARD_PIXELS[device.type] // (height * width))


def make(preprocess: Preprocess, *, dtype: torch.dtype) -> Callable:
    """The forward function (params["backbone"], state, images (B, H, W, 3) uint8) -> features (B, D).

    Without the classifier: its shape grows with the classes, and each would be another graph.
    """

    def forward(params: tree.Tree, state: tree.Tree, images: torch.Tensor) -> torch.Tensor:
        return model.apply_backbone(params, state, preprocess(images, dtype), train=False)[0]

    return forward


def features(
    forward: Callable,
    params: tree.Tree,
    state: tree.Tree,
    images: torch.Tensor,
    rows: torch.Tensor | None = None,
    *,
    batch_size: int,
    device: torch.device,
    fill: bool = False,
) -> torch.Tensor:
    """Features (M, D), on the device, of images uint8 (N, H, W, 3) as they are: of `rows` (M,), in their order.

    fill: whether the last batch is filled up with black images to batch_size, so that a forward function that is
    compiled for that size serves it too.
    """
    count = len(images) if rows is None else len(rows)
    if not count:
        return params["classifier"]["weight"].new_empty(0, params["classifier"]["weight"].shape[1])
    parts = []
    for start in range(0, count, batch_size):
        here = slice(start, start + batch_size)
        batch = images[here] if rows is None else images[upload(rows[here], images.device)]
        batch = upload(batch, device)
        missing = batch_size - len(batch) if fill else 0
        filled = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else batch
        parts.append(forward(params["backbone"], state, filled)[: len(batch)])
    return torch.cat(parts)


def teach(features: torch.Tensor, params: tree.Tree) -> Outputs:
    """What a model says, from its features (B, D): its logits are those of its classifier."""
    return Outputs(classifier.apply(params["classifier"], features), features)
