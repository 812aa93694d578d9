"""Batch norm of timm's models over groups of images, and with padding in the batch: that of `layers`.

Installed into the skeletons of calls that need it. Other calls use timm's own, over the whole batch.
"""

import torch
from timm.layers import BatchNormAct2d
from timm.models.levit import LinearNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cil_func.networks import layers


def can_group(module: nn.Module) -> bool:
    """Returns whether a model has batch norm, and only of kinds that `install` can replace."""
    if any(isinstance(part, LinearNorm) for part in module.modules()):
        return False  # its batch norm is given the tokens of all images as so many rows
    found = batch_norms(module)
    return bool(found) and all(type(part) in _GROUPED and part.affine and part.momentum is not None for part in found)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Returns the batch norms of a model, of any kind."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm) or hasattr(part, "running_var")]


def install(module: nn.Module, norm_batch: int, *, padded: bool) -> None:
    """Replaces a model's batch norms in place, if it has any. Raises ValueError where `can_group` says no.

    norm_batch: how many images share statistics; 0: all. padded: whether each call gives (B,) "valid" as a buffer of
    each batch norm, 1 for an image and 0 for padding, see `with_valid`.
    """
    if batch_norms(module) and not can_group(module):
        raise ValueError("apply: this model's batch norm knows no groups of images and no padding; take neither")
    for part in module.modules():
        if type(part) in _GROUPED:
            part.__class__ = _GROUPED[type(part)]
            vars(part)["norm_batch"] = norm_batch
            part.register_buffer("valid", torch.ones(1, device="meta") if padded else None, persistent=False)


def with_valid(module: nn.Module, buffers: dict, valid: torch.Tensor | None) -> dict:
    """Returns the buffers of a call, {path: tensor}, with `valid` for each batch norm that takes it."""
    takes = [path for path, _ in module.named_buffers() if path.rpartition(".")[2] == "valid"]
    return {**buffers, **dict.fromkeys(takes, valid)}


class _Grouped(_BatchNorm):
    """Batch norm whose training is `layers.batch_norm`."""

    norm_batch: int
    valid: torch.Tensor | None

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        images = x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, 1)              # (B, C, H, W)
        if self.valid is not None and len(self.valid) != len(images):
            raise ValueError(f"apply: a batch norm sees {len(images)} of {len(self.valid)} images; take no padding")
        params, state = {"weight": self.weight, "bias": self.bias}, {"mean": self.running_mean, "var": self.running_var}
        y, moved = layers.batch_norm(
            params, state, images, norm_batch=self.norm_batch, valid=self.valid, momentum=self.momentum or 0.0,
            epsilon=self.eps,
        )  # fmt: skip
        assert self.running_mean is not None and self.running_var is not None
        self.running_mean.copy_(moved["mean"])
        self.running_var.copy_(moved["var"])
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return y.reshape(x.shape)


class _Norm(_Grouped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalise(x)


class _NormAct(_Grouped):
    drop: nn.Module
    act: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(self.normalise(x)))


_GROUPED: dict[type, type] = {nn.BatchNorm1d: _Norm, nn.BatchNorm2d: _Norm, BatchNormAct2d: _NormAct}
