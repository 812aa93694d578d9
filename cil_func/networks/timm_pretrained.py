"""What timm says about the pretrained weights of its models. The weights themselves are a file of the user's."""

from typing import Any, NamedTuple

import torch

from cil_func.networks import timm_skeleton
from cil_func.networks.timm_skeleton import Size


class Preparation(NamedTuple):
    """How the images were prepared with which a model was trained.

    image_size: the side in pixels. mean, std: of each channel, of pixels in 0..1. interpolation: by which images were
    resized, "bicubic" or "bilinear".
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"


def preparation(name: str) -> Preparation:
    """Returns the preparation of timm's own weights of a model. name: timm's. Raises ConfigError for an unknown one."""
    from timm.data import resolve_data_config  # late: timm takes seconds to import

    found = resolve_data_config({}, model=timm_skeleton.prototype(name))
    return Preparation(found["input_size"][-1], tuple(found["mean"]), tuple(found["std"]), found["interpolation"])


def saved_names(name: str, image_size: Size | None = None) -> frozenset[str]:
    """Returns the names of the tensors in timm's files of a model's weights, without those of the classifier.

    A module has more buffers, which follow from its shape and are not in a file. image_size: (H, W) of the images.
    Raises ConfigError for an unknown name.
    """
    return frozenset(timm_skeleton.prototype(name, image_size).state_dict())


def classifier(name: str) -> tuple[str, ...]:
    """Returns the names, or their beginnings, of a classifier's tensors in timm's files of weights, such as "fc".

    They are the prefixes that timm's settings of the model have, and the names of all tensors that exist only with a
    classifier, such as those of a norm in front of it.
    Raises ConfigError for an unknown name.
    """
    without = timm_skeleton.prototype(name)
    settings: Any = without.pretrained_cfg
    found = settings.get("classifier") or ()
    whole = timm_skeleton.elsewhere(_names_with_classifier, name)
    return (*((found,) if isinstance(found, str) else found), *sorted(whole - without.state_dict().keys()))


def _names_with_classifier(name: str) -> set[str]:
    import timm

    with torch.device("meta"):
        return set(timm.create_model(name, pretrained=False).state_dict())
