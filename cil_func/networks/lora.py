"""LoRA, low-rank adapters (Hu et al. 2021, arXiv:2106.09685), on a timm model without batch norm, such as a ViT.

    W' = W + (alpha / rank) B A,   A (rank, in) random and B (out, rank) zero at first     (section 4.1)

    params = {"base": timm's, "lora": {module: {"a": (rank, in), "b": (out, rank)}}}

It is used as a backbone of one's own, with the base frozen, so that only adapters and classifier are trained:

    model.backbone = "cil_func.networks.lora:make", model.options.name = "vit_tiny_patch16_224"
    model.freeze = ["backbone.base"]
"""

import math
import os
from fnmatch import fnmatchcase

import torch

from cil_func import rng, tree
from cil_func.errors import ConfigError
from cil_func.networks import backbones, timm_skeleton, weights
from cil_func.networks.backbones import Backbone

_FILE = "model.options.file"


def make(
    name: str, rank: int = 8, alpha: float = 8.0, modules: tuple[str, ...] = ("*.attn.qkv",), file: str = ""
) -> Backbone:
    """Returns the backbone.

    name: of the timm model. rank, alpha: see above; B A is multiplied by alpha / rank. modules: patterns of the linear
    layers that get adapters. file: of the base's pretrained weights, see `weights.read`; "": they are random.
    It must stay there as long as a run goes on or is extended; a finished model predicts without it.
    Raises ConfigError for a model with batch norm or without such layers, and for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"model.options.rank: {rank}; a whole number from 1 on fits")
    inner = backbones.backbone(f"timm:{name}")
    facts = timm_skeleton.facts(name)
    linear = [path for path, part in timm_skeleton.prototype(name).named_modules() if isinstance(part, torch.nn.Linear)]
    adapted = [path for path in linear if any(fnmatchcase(path, pattern) for pattern in modules)]
    if facts.batch_norm or not adapted:
        fault = "has batch norm" if facts.batch_norm else f"has no linear layer {', '.join(modules)}"
        raise ConfigError(f"model.options: timm:{name} {fault}; a ViT, with modules = [\"*.attn.qkv\"], fits")

    def init(key: int, /, *, image_size=None):
        start = inner.init
        if file:
            read = weights.read(os.path.expanduser(file), setting=_FILE)
            start = weights.pretrained(inner, read, file=file, name=f"timm:{name}", setting=_FILE)
        base, state = start(key, image_size=image_size)
        shapes = tree.to_paths(base)
        adapters: dict[str, torch.Tensor] = {}
        for path in adapted:
            out, width = shapes[f"{path}.weight"].shape
            draws = rng.generator(rng.fold_in(key, "lora", path))
            adapters |= {f"{path}.a": torch.randn(rank, width, generator=draws) / math.sqrt(width)}
            adapters |= {f"{path}.b": torch.zeros(out, rank)}
        return {"base": base, "lora": tree.from_paths(adapters)}, state

    def apply(params, state, images, *, train, frozen=(), **more):
        flat, adapters = tree.to_paths(params["base"]), tree.to_paths(params["lora"])
        for path in adapted:
            change = adapters[f"{path}.b"] @ adapters[f"{path}.a"]                 # (out, in)
            flat[f"{path}.weight"] = flat[f"{path}.weight"] + alpha / rank * change
        with backbones.autocast(images, next(iter(flat.values())).dtype):  # not around the product above
            return inner.apply(tree.from_paths(flat), state, images, train=train, **more)

    return Backbone(
        init=init, apply=apply, feature_dim=inner.feature_dim, pads=inner.pads, draws=inner.draws, drops=inner.drops,
        freezes=True, lowers=True, recomputes=inner.recomputes,
    )  # fmt: skip
