"""The skeleton of a timm backbone for a call that torch.compile traces. Imported then alone: it imports torch._dynamo.

torch.compile can't trace what makes a module. It calls a function marked as constant instead of tracing it, and such a
function may return a string, but no module.
"""

import torch

from cil_func.networks import timm_skeleton
from cil_func.networks.timm_skeleton import Drop


def skeleton(name: str, images: torch.Tensor, *, train: bool, drop: Drop) -> torch.nn.Module:
    """The skeleton for images (B, 3, H, W), shared by all traces of its model.

    Compiled code empties and refills the skeleton's tables of parameters at each call. Its answers come from its inputs
    alone; two threads that call one compiled function at once may make it compile again.
    """
    height, width = images.shape[2:] if _takes_size(name) else (0, 0)
    return getattr(_Skeletons, _attribute(name, height, width, train, *drop))


class _Skeletons:
    """Has an attribute for each skeleton: torch.compile guards an attribute alone, but a dict as a whole."""


@torch.compiler.assume_constant_result
def _takes_size(name: str) -> bool:
    return timm_skeleton.takes_size(name)


@torch.compiler.assume_constant_result
def _attribute(name: str, height: int, width: int, train: bool, rate: float, path_rate: float) -> str:
    """The name of an attribute of `_Skeletons`, which is there from then on."""
    attribute = repr((name, height, width, train, rate, path_rate)).replace(".", "_")  # torch.compile takes no dots
    if not hasattr(_Skeletons, attribute):
        image_size = (height, width) if height else None
        setattr(_Skeletons, attribute, timm_skeleton.new(name, image_size, train, Drop(rate, path_rate)))
    return attribute
