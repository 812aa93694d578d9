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
    features, _, state = backbones.run(
        params["backbone"], state, images, train=train, norm_batch=norm_batch, valid=valid, drop=drop
    )                                                                              # (B, D)
    return classifier.apply(params["classifier"], features), features, state
