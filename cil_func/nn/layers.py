"""Convolution and batch norm with explicit parameters and state.

Activations have the dtype of the images; parameters and statistics keep their own (float32, or float64
in equality tests). So images in bfloat16 give bfloat16 convolutions with float32 master weights.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from cil_func import rng

NORM_MOMENTUM = 0.1  # torch.nn.BatchNorm2d's defaults
NORM_EPSILON = 1e-5


def conv_init(key: int, in_channels: int, out_channels: int, size: int) -> dict:
    """Weights (out, in, size, size) drawn from N(0, 2 / fan_in). Source: He et al. 2015 (arXiv:1502.01852)."""
    std = math.sqrt(2.0 / (in_channels * size * size))
    shape = (out_channels, in_channels, size, size)
    return {"weight": torch.randn(shape, generator=rng.generator(key)) * std}


def conv(params: dict, x: torch.Tensor, *, stride: int = 1) -> torch.Tensor:
    """Convolution without bias, padded so that stride 1 keeps the size: (B, C, H, W) -> (B, C', H', W')."""
    weight = params["weight"].to(x.dtype)
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def norm_init(channels: int) -> tuple[dict, dict]:
    """Batch norm's (params, state): scale 1, shift 0; running mean 0, running variance 1, each (C,)."""
    params = {"weight": torch.ones(channels), "bias": torch.zeros(channels)}
    return params, {"mean": torch.zeros(channels), "var": torch.ones(channels)}


def batch_norm(
    params: dict, state: dict, x: torch.Tensor, *, train: bool, norm_batch: int = 0
) -> tuple[torch.Tensor, dict]:
    """Batch norm over (B, C, H, W), returning (normalised, new state).

    train: normalise by the statistics of the batch and move the running ones by 0.1; otherwise normalise
    by the running ones. norm_batch: how many images share statistics (0: all). Groups are cut in order,
    the last may be short, and the running statistics move towards the mean over groups weighted by size:
    one process with 4 groups of 128 computes what 4 processes with 128 images each compute.
    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); unbiased running variance as in torch.nn.BatchNorm2d.
    """
    if not train:
        scale = params["weight"] * torch.rsqrt(state["var"] + NORM_EPSILON)       # (C,)
        shift = params["bias"] - state["mean"] * scale
        return _affine(x, scale, shift).to(x.dtype), state
    outputs, mean, var = [], 0.0, 0.0
    for part in _groups(x, norm_batch):                                           # (G, N, C, H, W)
        y, part_mean, part_var = _normalise(params, part)
        weight = part.shape[0] * part.shape[1] / x.shape[0]
        outputs.append(rearrange(y, "g n c h w -> (g n) c h w"))
        mean, var = mean + weight * part_mean, var + weight * part_var
    moved = {
        "mean": torch.lerp(state["mean"], mean.detach(), NORM_MOMENTUM),
        "var": torch.lerp(state["var"], var.detach(), NORM_MOMENTUM),
    }
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), moved


def _groups(x: torch.Tensor, norm_batch: int) -> list[torch.Tensor]:
    """Cuts (B, C, H, W) into groups that share statistics: the equal ones as one tensor, then the short one."""
    size = min(norm_batch or x.shape[0], x.shape[0])
    equal = x.shape[0] // size * size
    parts = [rearrange(x[:equal], "(g n) c h w -> g n c h w", n=size)]
    return parts if equal == x.shape[0] else [*parts, x[None, equal:]]


def _normalise(params: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalises each group of (G, N, C, H, W); also the mean over groups of mean and unbiased variance, (C,)."""
    wide = x.to(params["weight"].dtype)
    # Written out rather than native_batch_norm: inductor fuses this with its neighbours, and it measured faster.
    var, mean = torch.var_mean(wide, dim=(1, 3, 4), correction=0, keepdim=True)   # (G, 1, C, 1, 1)
    weight, bias = (rearrange(params[name], "c -> c 1 1") for name in ("weight", "bias"))
    y = (wide - mean) * (torch.rsqrt(var + NORM_EPSILON) * weight) + bias
    count = x.shape[1] * x.shape[3] * x.shape[4]
    unbiased = var * (count / max(count - 1, 1))  # one pixel has no variance: 0, not 0/0
    return y.to(x.dtype), mean.mean(0).flatten(), unbiased.mean(0).flatten()


def _affine(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """x * scale + shift by channel, in the dtype of the statistics."""
    return x.to(scale.dtype) * rearrange(scale, "c -> c 1 1") + rearrange(shift, "c -> c 1 1")
