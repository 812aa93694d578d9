"""Any timm model as a backbone: its parameters and buffers become explicit trees.

The module itself is a skeleton on the meta device, kept for its forward; `torch.func.functional_call`
gives it our tensors. Weights start from timm's own initialisation, drawn from the key; nothing is
downloaded. Batch norm is timm's, over the whole batch (`norm_batch` is refused by the configuration).
"""

import torch

from cil_func import tree
from cil_func.errors import ConfigError


def init(key: int, name: str) -> tuple[dict, dict]:
    """(params, state) of the timm model `name` without its classifier; ConfigError if timm has none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)  # timm's initialisation draws from torch's global generator
        module = _create(name)
    params = {path: leaf.detach().clone() for path, leaf in module.named_parameters()}
    state = {path: leaf.detach().clone() for path, leaf in module.named_buffers()}
    return tree.from_paths(params), tree.from_paths(state)


def apply(
    params: dict, state: dict, images: torch.Tensor, *, name: str, train: bool
) -> tuple[torch.Tensor, dict]:
    """Images (B, 3, H, W) -> (features (B, D) in float32 at least, new state).

    Casts by autocast where the images are in a lower precision than the parameters.
    """
    weights = tree.to_paths(params)
    # timm's batch norm writes into its buffers; the copies keep our argument as it was.
    buffers = {path: leaf.clone() for path, leaf in tree.to_paths(state).items()}
    lower = images.dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(images.device.type, dtype=images.dtype if lower else torch.bfloat16, enabled=lower):
        features = torch.func.functional_call(_skeleton(name, train), (weights, buffers), (images,))
    wide = torch.promote_types(features.dtype, torch.float32)
    return features.to(wide), tree.from_paths({path: leaf.detach() for path, leaf in buffers.items()})


def feature_dim(name: str) -> int:
    """The width D of the pooled features; ConfigError if timm has no such model."""
    module = _skeleton(name, False)
    return getattr(module, "head_hidden_size", None) or module.num_features


_skeletons: dict[tuple[str, bool], torch.nn.Module] = {}  # a dict, since torch.compile looks through functools.cache


def _skeleton(name: str, train: bool) -> torch.nn.Module:
    """The module with meta tensors, one for each mode, so that no call changes the mode of another."""
    if (name, train) not in _skeletons:
        with torch.device("meta"):
            for mode in (True, False):
                _skeletons[name, mode] = _create(name).train(mode)
    return _skeletons[name, train]


def _create(name: str) -> torch.nn.Module:
    import timm  # late: it costs seconds, and the CIFAR ResNets don't need it

    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:3]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(f'model.backbone: "timm:{name}" is no model of timm {timm.__version__}{hint}')
    return timm.create_model(name, pretrained=False, num_classes=0)
