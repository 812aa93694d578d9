"""Copies from the host to a GPU, for which neither waits."""

import torch
from torch import Tensor


def pin(values: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor in page-locked memory if it is on the host and `device` is a GPU, else as it is.

    A GPU reads page-locked memory by itself, so `upload` doesn't wait for it. An expanded tensor has to be made whole
    first: torch would pin it with its strides of 0, and then refuse to write there.
    """
    return values.contiguous().pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on `device`, without waiting for the copy. A tensor that is there already is not copied."""
    return pin(values, device).to(device, non_blocking=True)
