"""A model is a backbone and a linear classifier: two trees, and one forward function.

    params = {"backbone": {"resnet32": {...}}, "classifier": {"weight": (K, D), "bias": (K,)}}
    state  = {"backbone": {"resnet32": {...}}}         batch norm's running statistics

The one key under "backbone" is its name, so that a tree says which network it belongs to. Freezing is a
choice of what is differentiated: `tree.partition(params, ...)`, then `torch.func.grad` of the first part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cil_func import classifier, rng
from cil_func.networks import resnet, timm_models, timm_skeleton
from cil_func.networks.timm_skeleton import OFF, Drop


@dataclass(frozen=True)
class Backbone:
    """init(key, *, image_size) -> (params, state)
    apply(params, state, images, *, train[, norm_batch, valid, drop]) -> (features, state)

    feature_dim() is the width D of the features (B, D); pads(): whether a batch may hold padding, which apply is told
    by `valid`; groups: whether images can share batch norm's statistics by groups of norm_batch, not the whole batch.
    drops(): whether it is a timm model whose own rates of dropout aren't 0 and are passed over;
    draws(image_size, drop): whether train mode draws random numbers; ValueError for images that it can't take.
    """

    init: Callable
    apply: Callable
    feature_dim: Callable[[], int]
    pads: Callable[[], bool]
    groups: bool
    drops: Callable[[], bool]
    draws: Callable[..., bool]


def backbone(name: str) -> Backbone:
    """The backbone called `name`: "resnet20|32|44|56|110" or "timm:<name>".

    Raises ValueError for another name, ConfigError for a model that timm doesn't have.
    """
    if name.startswith("timm:"):
        inner = name.removeprefix("timm:")
        return Backbone(
            init=partial(timm_models.init, name=inner),
            apply=partial(timm_models.apply, name=inner),
            feature_dim=partial(timm_models.feature_dim, inner),
            pads=partial(timm_models.pads, inner),
            groups=False,
            drops=lambda: timm_skeleton.facts(inner).drops,
            draws=partial(timm_skeleton.draws, inner),
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
        drops=lambda: False,
        draws=lambda image_size, drop=OFF: False,
    )


def init(
    key: int, backbone_name: str, num_classes: int, *, image_size: tuple[int, int] | None = None
) -> tuple[dict, dict]:
    """Draws (params, state) of a new model on the CPU in float32.

    image_size: (H, W) of the images that `apply` will get; a ViT's parameters depend on it. None: the size that a timm
    model has by itself. Raises as `backbone` does, and ValueError for images that the backbone can't take.
    """
    net = backbone(backbone_name)
    backbone_name = backbone_name.partition(".")[0]  # timm's tag behind it names weights, and none are loaded
    params, state = net.init(rng.fold_in(key, "backbone"), image_size=image_size)
    head = classifier.init(rng.fold_in(key, "classifier"), net.feature_dim(), num_classes)
    return {"backbone": {backbone_name: params}, "classifier": head}, {"backbone": {backbone_name: state}}


def apply(
    params: dict,
    state: dict,
    images: torch.Tensor,
    *,
    train: bool,
    norm_batch: int = 0,
    valid: torch.Tensor | None = None,
    drop: Drop = OFF,
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """The forward pass: images (B, 3, H, W), float -> (logits (B, K), features (B, D), new state).

    The images' dtype is the precision of the convolutions; features and logits have the parameters'.
    train: batch norm uses the batch (by groups of `norm_batch` images, 0: all) and moves the state;
    otherwise the state comes back as it went in. valid: (B,), 1 for an image and 0 for padding, which batch
    norm then passes over (`backbone(name).pads`); None: no padding. drop: rates of dropout and stochastic depth of a
    timm backbone in train mode; any but 0 draws from torch's global generator (`rng.seeded`).
    Works under torch.func and torch.compile(fullgraph=True).
    Raises ValueError for images that are not (B, 3, H, W) or not floating point, or that norm_batch doesn't divide.
    """
    features, state = apply_backbone(
        params["backbone"], state, images, train=train, norm_batch=norm_batch, valid=valid, drop=drop
    )                                                                              # (B, D)
    return classifier.apply(params["classifier"], features), features, state


def apply_backbone(
    params: dict,
    state: dict,
    images: torch.Tensor,
    *,
    train: bool,
    norm_batch: int = 0,
    valid: torch.Tensor | None = None,
    drop: Drop = OFF,
) -> tuple[torch.Tensor, dict]:
    """`apply` without the classifier: params["backbone"] and the whole state -> (features (B, D), new state)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"apply: images of shape {tuple(images.shape)}; (B, 3, H, W) fits")
    if not images.is_floating_point():
        raise ValueError(
            f"apply: images are {images.dtype}; give floating-point images: divide pixels by 255, then normalise "
            "them by the mean and std of the training"
        )
    if train and norm_batch and images.shape[0] > norm_batch and images.shape[0] % norm_batch:
        raise ValueError(
            f"apply: {images.shape[0]} images in groups of {norm_batch}; fill the last group up and say so in `valid`"
        )
    ((name, weights),) = params.items()
    groups = {"norm_batch": norm_batch} if 0 < norm_batch < images.shape[0] else {}
    more = ({} if valid is None else {"valid": valid}) | ({"drop": drop} if any(drop) else {})
    features, moved = backbone(name).apply(
        weights, state["backbone"][name], images, train=train, **groups, **more
    )                                                                              # (B, D)
    return features, {"backbone": {name: moved}}
