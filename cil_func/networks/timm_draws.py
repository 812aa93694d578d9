"""Finds out, without arithmetic, whether a timm model takes images of a size and whether it draws random numbers."""

from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cil_func.errors import ConfigError
from cil_func.networks import timm_skeleton
from cil_func.networks.timm_skeleton import OFF, Drop, Size


def draws(name: str, image_size: Size, drop: Drop = OFF) -> bool:
    """Returns whether a model draws random numbers in train mode, for images of this size and these rates of dropping.

    True if torch can't tell. Runs it on the meta device, where nothing is computed. Raises ValueError, with the reason,
    if the model can't take images of this size. Raises ConfigError as `create` does, and for rates that change nothing.
    """
    return timm_skeleton.elsewhere(_draws, name, image_size, drop)


@cache  # a run asks several times, and two forward passes take a second
def _draws(name: str, image_size: Size, drop: Drop) -> bool:
    width, modes, watch = timm_skeleton.facts(name).feature_dim, (False, True), _Watch()
    for train in modes:
        try:
            module = timm_skeleton.copy(name, image_size if timm_skeleton.takes_size(name) else None, train, drop)
            _refuse_cut_patches(module, image_size)
            with watch:
                features = module(torch.empty(2, 3, *image_size, device="meta"))
        except ConfigError:
            raise
        except NotImplementedError:  # an operation that the meta device lacks: nothing is known
            return True
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{type(error).__name__} in its forward pass{reason and f': {reason}'}") from error
        if features.shape != (2, width):
            raise ValueError(f"its features are {tuple(features.shape)} for two images, and not (2, {width})")
    if any(drop) and not watch.drew:
        key, rate = ("drop_rate", drop.rate) if drop.rate else ("drop_path_rate", drop.path_rate)
        raise ConfigError(f"model.{key}: {rate} changes nothing in timm:{name}, which has no such layer; 0 fits")
    return watch.drew


def _refuse_cut_patches(module: torch.nn.Module, image_size: Size) -> None:
    """Raises ValueError if the images are no whole number of patches: timm would ignore the pixels that are left."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and any(side % part for side, part in zip(image_size, patch, strict=True)):
        raise ValueError(f"its patches have {patch[0]}x{patch[1]} pixels, and an image has no whole number of them")


class _Watch(TorchDispatchMode):
    """A mode in which `drew` becomes true if an operation draws random numbers."""

    drew = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.drew |= torch.Tag.nondeterministic_seeded in function.tags
        return function(*args, **(kwargs or {}))
