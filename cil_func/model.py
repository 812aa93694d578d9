"""A model is a backbone and a linear classifier: two trees, and one forward function.

    params = {"backbone": {"resnet32": {...}}, "classifier": {"weight": (K, D), "bias": (K,)}}
    state  = {"backbone": {"resnet32": {...}}}         batch norm's running statistics

The one key under "backbone" is its name, so that a tree says which network it belongs to. Freezing is a
choice of what is differentiated: `tree.partition(params, ...)`, then `torch.func.grad` of the first part.
"""

import torch

from cil_func import classifier, rng
from cil_func.networks import backbones
from cil_func.networks.backbones import Backbone, backbone
from cil_func.networks.timm_skeleton import OFF, Drop

__all__ = ["Backbone", "apply", "backbone", "init"]


def init(
    key: int, backbone: str, num_classes: int, *, image_size: tuple[int, int] | None = None
) -> tuple[dict, dict]:
    """Returns (params, state) of a new model, drawn on the CPU in float32; the module's docstring shows their keys.

    key: an int, the seed of the draws. backbone: a name, see `model.backbone`. num_classes: K.
    image_size: (H, W) of the images that `apply` will get; a ViT's parameters depend on it. None: the size that a timm
    model has by itself.
    Raises ValueError for an unknown backbone or images that it can't take, ConfigError for a model that timm doesn't
    have.
    """
    net = backbones.backbone(backbone)
    name = backbone.partition(".")[0]  # timm's tag behind it names weights, and none are loaded
    params, state = net.init(rng.fold_in(key, "backbone"), image_size=image_size)
    head = classifier.init(rng.fold_in(key, "classifier"), net.feature_dim(), num_classes)
    return {"backbone": {name: params}, "classifier": head}, {"backbone": {name: state}}


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

    params, state: from `init`. The images' dtype is the precision of the convolutions; features and logits have the
    parameters'.
    train: True: batch norm normalises by the statistics of the batch and moves the running ones in the state; False: it
    uses the running ones, and the state comes back as it went in.
    norm_batch: how many images share statistics, in train mode; 0: all. For backbones with `groups`.
    valid: (B,), 1 for an image and 0 for padding, which batch norm then passes over, for backbones that take it
    (`backbone(name).pads`); None: no padding.
    drop: rates of dropout and stochastic depth of a timm backbone in train mode; any but 0 draws from torch's global
    generator (`rng.seeded`).
    Works under torch.func and torch.compile(fullgraph=True).
    Raises ValueError for images that are not (B, 3, H, W) or not floating point, or that norm_batch doesn't divide.
    """
    features, _, state = backbones.run(
        params["backbone"], state, images, train=train, norm_batch=norm_batch, valid=valid, drop=drop
    )                                                                              # (B, D)
    return classifier.apply(params["classifier"], features), features, state
