"""What a backbone is, the built-in ones by name, and how one is run with its arguments checked."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from cil_func import tree
from cil_func.networks import resnet, timm_draws, timm_models, timm_pretrained, timm_recomputing, timm_skeleton
from cil_func.networks.outputs import Taps
from cil_func.networks.timm_skeleton import OFF, Drop, Size
from cil_func.tree import Tree


class InitBackbone(Protocol):
    """(key, image_size) -> (params, state): parameters drawn from the int seed `key`, and buffers.

    Buffers are batch norm's running statistics, for example. Both are nested dicts of tensors, on the CPU in float32.
    image_size: (H, W); None: the backbone's own.
    """

    def __call__(self, key: int, /, *, image_size: Size | None = None) -> tuple[Tree, Tree]: ...


class FeatureDim(Protocol):
    """() -> how many features a backbone has: D."""

    def __call__(self) -> int: ...


class Draws(Protocol):
    """(image_size, drop) -> whether train mode draws random numbers. Raises ValueError for images that don't fit."""

    def __call__(self, image_size: Size, drop: Drop = OFF, /) -> bool: ...


class SavedNames(Protocol):
    """(image_size) -> names of tensors, or None. image_size: as for `InitBackbone`."""

    def __call__(self, image_size: Size | None, /) -> frozenset[str] | None: ...


class Answer(Protocol):
    """() -> yes or no."""

    def __call__(self) -> bool: ...


@dataclass(frozen=True)
class Backbone:
    """What turns images into features, as functions of explicit trees.

    init, feature_dim, draws: see their types.
    apply(params, state, images, *, train[, norm_batch, valid, drop, taps, final_relu])
        -> (features (B, D), aux, new state). images: (B, 3, H, W) float. aux: what the taps return, {} without taps.
        It is given an optional argument only where that is not the default: norm_batch where `groups` or `shares()` is
        true, valid where `pads()` is true, drop where `draws` can be true, taps and final_relu where `has_maps` is
        true. What they are: `cil_func.model.apply`, `networks.resnet.apply`.
    pads() -> whether a batch may hold padding, which `valid` marks.
    drops() -> whether it is a timm model with rates of dropout of its own, which are not used.
    groups: whether groups of norm_batch images can share batch norm's statistics, instead of the whole batch.
    shares() -> the same, of a backbone that has to be looked at first: `groups` is false, and images share statistics.
    has_maps: whether it can give its feature maps to taps.
    last: the name of the last stage in params and state, if `apply` takes several of them, see `networks.resnet.apply`.
    freezes: whether `apply` takes `frozen`, the paths of frozen parts, whose batch norms use their running statistics
    in train mode too. It is given only in train mode and if there are any.
    recomputes() -> whether `apply` takes recompute=True, see `networks.recomputing`. It is given only in train mode.
    lowers: whether `apply` itself takes images of bfloat16 or float16 with float32 weights, as `layers` does. If not,
    it runs under torch.autocast for such images.
    saved_names(image_size) -> the names of the tensors that a file of its weights has; None: all of params and state.
    classifier: names of tensors of a classifier that such a file may have too, or their beginnings.
    """

    init: InitBackbone
    apply: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor], Tree]]  # not each takes all of the arguments
    feature_dim: FeatureDim
    pads: Answer = lambda: False
    draws: Draws = lambda image_size, drop=OFF: False
    drops: Answer = lambda: False
    groups: bool = False
    shares: Answer = lambda: False
    has_maps: bool = False
    last: str = ""
    freezes: bool = False
    recomputes: Answer = lambda: False
    lowers: bool = False
    saved_names: SavedNames = lambda image_size: None
    classifier: Callable[[], tuple[str, ...]] = lambda: ()


def backbone(name: str) -> Backbone:
    """Returns the backbone called `name`: "resnet8|14|20|32|44|56|110" or "timm:<name>".

    Raises ValueError for another name. For a model that timm doesn't have, the backbone's functions raise ConfigError.
    """
    if name.startswith("timm:"):
        inner = name.removeprefix("timm:")
        return Backbone(
            init=partial(timm_models.init, name=inner),
            apply=partial(timm_models.apply, name=inner),
            feature_dim=partial(timm_models.feature_dim, inner),
            pads=partial(timm_models.pads, inner),
            shares=lambda: timm_skeleton.facts(inner).groups,
            draws=partial(timm_draws.draws, inner),
            drops=lambda: timm_skeleton.facts(inner).drops,
            freezes=True,
            recomputes=lambda: timm_recomputing.has_blocks(timm_skeleton.prototype(inner)),
            saved_names=lambda image_size: timm_pretrained.saved_names(inner, image_size),
            classifier=lambda: timm_pretrained.classifier(inner),
        )
    depths = {f"resnet{depth}": depth for depth in resnet.DEPTHS}
    if name not in depths:
        raise ValueError(f'backbone: "{name}"; one of {", ".join(depths)}, or "timm:<name>"')
    return Backbone(
        init=lambda key, *, image_size=None: resnet.init(key, depth=depths[name]),  # for images of any size
        apply=resnet.apply,
        feature_dim=resnet.feature_dim,
        pads=lambda: True,
        groups=True,
        has_maps=True,
        last=resnet.LAST,
        freezes=True,
        lowers=True,
        recomputes=lambda: True,
    )


def run(
    params: dict,
    state: dict,
    images: torch.Tensor,
    *,
    train: bool,
    norm_batch: int = 0,
    valid: torch.Tensor | None = None,
    drop: Drop = OFF,
    taps: Taps | None = None,
    final_relu: bool = True,
    net: Backbone | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict]:
    """Runs a backbone: images (B, 3, H, W), float -> (features (B, D), aux, new state).

    params: {name: ...}, the weights under the backbone's name; state: {"backbone": {name: ...}}, and so is the new one.
    train, norm_batch, valid, drop: see `cil_func.model.apply`; taps, final_relu: see `networks.resnet.apply`.
    aux: what the taps return; {} without taps. Features and aux have at least the precision of the weights.
    net: the backbone; None: the built-in one of that name.
    Raises ValueError for images that are not (B, 3, H, W) or not floating point, or that norm_batch doesn't divide, for
    none in train mode, and for taps or final_relu=False on a backbone that shows no maps.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"apply: images of shape {tuple(images.shape)}; (B, 3, H, W) fits")
    if not images.is_floating_point():
        raise ValueError(
            f"apply: images are {images.dtype}; give floating-point images: divide pixels by 255, then normalise "
            "them by the mean and std of the training"
        )
    if train and not images.shape[0]:
        raise ValueError("apply: a batch of no images; train mode needs at least one")
    if train and norm_batch and images.shape[0] > norm_batch and images.shape[0] % norm_batch:
        raise ValueError(
            f"apply: {images.shape[0]} images in groups of {norm_batch}; fill the last group up and say so in `valid`"
        )
    ((name, weights),) = params.items()
    net = net or backbone(name)
    more: dict[str, Any] = {"norm_batch": norm_batch} if 0 < norm_batch < images.shape[0] else {}
    more |= ({} if valid is None else {"valid": valid}) | ({"drop": drop} if any(drop) else {})
    if taps or not final_relu:
        if not net.has_maps:
            raise ValueError(f'apply: "{name}" shows no feature maps; a resnet of this package does')
        more |= {"taps": taps, "final_relu": final_relu}
    precision = next((leaf.dtype for leaf in tree.leaves(weights) if leaf.is_floating_point()), images.dtype)
    with nullcontext() if net.lowers else autocast(images, precision):
        features, aux, moved = net.apply(weights, state["backbone"][name], images, train=train, **more)

    def wide(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.to(torch.promote_types(leaf.dtype, precision)) if leaf.is_floating_point() else leaf

    return wide(features), tree.map(wide, aux), {"backbone": {name: moved}}


def autocast(images: torch.Tensor, precision: torch.dtype) -> AbstractContextManager:
    """Returns the context manager in which weights of that precision can take images of a lower one: torch.autocast."""
    kind, low = images.device.type, images.dtype in (torch.bfloat16, torch.float16)
    known = torch.amp.is_autocast_available(kind)  # not on "meta"
    return torch.autocast(kind, dtype=images.dtype) if low and known and images.dtype != precision else nullcontext()
