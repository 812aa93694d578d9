"""Runs a model forward over many images, in eval mode."""

from collections.abc import Callable

import torch

from cil_func import model, tree
from cil_func.data import resident
from cil_func.engine.step import Preprocess


def make(preprocess: Preprocess, *, dtype: torch.dtype) -> Callable:
    """The forward function (params, state, images (B, H, W, 3) uint8) -> features (B, D)."""

    def forward(params: tree.Tree, state: tree.Tree, images: torch.Tensor) -> torch.Tensor:
        _, features, _ = model.apply(params, state, preprocess(images, dtype), train=False)
        return features

    return forward


def features(
    forward: Callable,
    params: tree.Tree,
    state: tree.Tree,
    images: torch.Tensor,
    rows: torch.Tensor,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Features (len(rows), D), on the CPU, of un-augmented images (N, H, W, 3), in the order of `rows`."""
    parts = []
    for batch in resident.eval_batches(images, rows, batch_size=batch_size):
        parts.append(forward(params, state, batch.to(device)))
    return torch.cat(parts).cpu()
