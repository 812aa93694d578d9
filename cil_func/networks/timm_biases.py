"""Attention biases of timm's models, computed in each call.

LeViT, TinyViT, EfficientFormer and others keep the biases of their first call in eval mode in the module. A skeleton
gets other tensors in the next call, so it must not remember any.
"""

import torch
from torch import nn

_kinds: dict[type, type] = {}  # of a layer of timm: the same without cache


def uncached(module: nn.Module) -> nn.Module:
    """Changes a timm model in place so that its attention layers keep no biases between calls. Returns the model."""
    for part in module.modules():
        if hasattr(part, "attention_bias_cache"):
            kind = type(part)
            if kind not in _kinds:
                _kinds[kind] = type(kind.__name__, (kind,), {"get_attention_biases": _biases})
            part.__class__ = _kinds[kind]
    return module


def _biases(part: nn.Module, device: torch.device) -> torch.Tensor:
    """Returns the bias of each pair of positions, (heads, N, M). device: that of the images, where the biases are."""
    return part.attention_biases[:, part.attention_bias_idxs]  # type: ignore[index]
