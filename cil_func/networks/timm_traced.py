"""Finds the skeleton of a timm backbone for a call that torch.compile traces.

Imported only in such a call, since it imports torch._dynamo. torch.compile can't trace code that makes a module. It
calls a function that is marked as constant, without tracing it; but such a function may return a string and no module.
So the function below makes the module an attribute of a class, and returns the attribute's name.
"""

import torch

from cil_func.networks import timm_skeleton
from cil_func.networks.timm_skeleton import Drop, Norms


def skeleton(
    name: str, images: torch.Tensor, *, train: bool, drop: Drop, frozen: tuple[str, ...] = (),
    norms: Norms | None = None
) -> torch.nn.Module:
    """Returns the skeleton for images (B, 3, H, W). All traces of a model with images of this size share it.

    name, train, drop, frozen, norms: see `timm_skeleton.borrow`. Compiled code removes and sets the skeleton's
    parameters in each call, and its results depend on its inputs alone. Two threads that call one compiled function at
    the same time may make it compile again.
    """
    height, width = images.shape[2:] if _takes_size(name) else (0, 0)
    return getattr(_Skeletons, _attribute(name, height, width, train, *drop, " ".join(frozen), *(norms or (-1, False))))


class _Skeletons:
    """Has an attribute for each skeleton. For a dict, torch.compile would check all of its entries in each call."""


@torch.compiler.assume_constant_result
def _takes_size(name: str) -> bool:
    return timm_skeleton.takes_size(name)


@torch.compiler.assume_constant_result
def _attribute(
    name: str, height: int, width: int, train: bool, rate: float, path_rate: float, frozen: str,
    norm_batch: int, padded: bool,
) -> str:  # fmt: skip
    """Returns the name of the attribute of `_Skeletons` that has the skeleton; makes it if it isn't there yet.

    frozen: paths separated by spaces. norm_batch: -1: batch norm is timm's own.
    """
    # torch.compile takes no dots in an attribute's name.
    attribute = repr((name, height, width, train, rate, path_rate, frozen, norm_batch, padded)).replace(".", "_")
    if not hasattr(_Skeletons, attribute):
        image_size = (height, width) if height else None
        norms = None if norm_batch < 0 else Norms(norm_batch, padded)
        new = timm_skeleton.new(name, image_size, train, Drop(rate, path_rate), tuple(frozen.split()), norms)
        setattr(_Skeletons, attribute, new)
    return attribute
