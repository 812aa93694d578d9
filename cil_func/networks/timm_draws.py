"""Finds out, without arithmetic, whether a timm model takes images of a size and whether it draws random numbers."""

from collections.abc import Sequence
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
    width, modes, watch = timm_skeleton.facts(name).feature_dim, (False, True), _Watch(image_size)
    for train in modes:
        try:
            module = timm_skeleton.copy(name, image_size if timm_skeleton.takes_size(name) else None, train, drop)
            with watch:
                features = module(torch.empty(2, 3, *image_size, device="meta"))
        except (ConfigError, _CutError):
            raise
        except NotImplementedError:  # an operation that the meta device lacks: nothing is known
            return True
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{type(error).__name__} in its forward pass{reason and f': {reason}'}") from error
        shape = getattr(features, "shape", ())
        if shape != (2, width):
            raise ValueError(f"its features are {tuple(shape)} for two images, and not (2, {width})")
    if any(drop) and not watch.drew:
        key, rate = ("drop_rate", drop.rate) if drop.rate else ("drop_path_rate", drop.path_rate)
        raise ConfigError(f"model.{key}: {rate} changes nothing in timm:{name}, which has no such layer; 0 fits")
    return watch.drew


class _CutError(ValueError):
    """The images are no whole number of patches, and timm would ignore the pixels that are left."""


class _Watch(TorchDispatchMode):
    """A mode in which `drew` becomes true if an operation draws random numbers.

    Raises _CutError where an operation cuts images of `image_size`, or their first map, into patches with a rest.
    """

    def __init__(self, image_size: Size) -> None:
        super().__init__()
        self.drew, self.image_size = False, image_size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.drew |= torch.Tag.nondeterministic_seeded in function.tags
        if function is torch.ops.aten.convolution.default and args[0].shape[1] == 3:
            self._refuse_rest(args[0].shape[2:], args[1].shape[2:], stride=args[3], padding=args[4])
        if function is torch.ops.aten.im2col.default:
            self._refuse_rest(args[0].shape[2:], args[1], stride=args[4], padding=args[3])
        return function(*args, **(kwargs or {}))

    def _refuse_rest(self, sides: Sequence[int], kernel: Sequence[int], *, stride: list, padding: list) -> None:
        axes = zip(sides, kernel, stride, padding, strict=True)
        if any(k % step == 0 and (side + 2 * pad - k) % step > pad for side, k, step, pad in axes):
            high, wide = (k * image // side for k, image, side in zip(kernel, self.image_size, sides, strict=True))
            raise _CutError(f"its patches have {high}x{wide} pixels, and an image has no whole number of them")
