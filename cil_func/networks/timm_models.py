"""Any timm model as a backbone: its parameters and buffers become explicit trees.

The module itself is a skeleton (`timm_skeleton`), kept for its forward; `torch.func.functional_call` gives it our
tensors. Weights start from timm's own initialisation, drawn from the key; nothing is downloaded.
"""

import threading

import torch

from cil_func import rng, tree
from cil_func.networks import timm_draws, timm_skeleton
from cil_func.networks.timm_skeleton import OFF, Drop, Norms, Size

_init_lock = threading.Lock()


def init(key: int, name: str, *, image_size: Size | None = None) -> tuple[dict, dict]:
    """Returns (params, state) of a new timm model `name` without its classifier: its parameters and its buffers.

    Both are nested dicts of tensors on the CPU. key: the seed of timm's random initialisation; torch's global generator
    is left as it was. image_size: (H, W) of the images that it will get, which a ViT's parameters depend on; None: the
    model's own.
    Raises ConfigError if timm has no such model, ValueError for images that it can't take.
    """
    if image_size is not None:
        height, width = image_size
        image_size = height, width  # also of a list
        timm_draws.draws(name, image_size)  # raises for a size that doesn't fit
    sized = image_size if image_size is not None and timm_skeleton.takes_size(name) else None
    with _init_lock, rng.seeded(key):  # timm's initialisation draws from torch's global generator
        module = timm_skeleton.create(name, sized)
    params = {path: leaf.detach().clone() for path, leaf in module.named_parameters()}
    state = {path: leaf.detach().clone() for path, leaf in module.named_buffers()}
    made = tree.from_paths(params), tree.from_paths(state)
    return tree.cast(made, dtype=torch.float32)  # torch's default may be another


def apply(
    params: dict,
    state: dict,
    images: torch.Tensor,
    *,
    name: str,
    train: bool,
    drop: Drop = OFF,
    norm_batch: int = 0,
    valid: torch.Tensor | None = None,
    frozen: tuple[str, ...] = (),
    recompute: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict]:
    """Images (B, 3, H, W) -> (features (B, D), {}, new state). A timm model shows no feature maps.

    params, state: from `init` with that `name`. Images of a lower precision need an autocast around the call
    (`backbones.run`). train: batch norm uses the batch and moves the state. drop: rates of dropping in train mode;
    where one isn't 0, it draws from torch's global generator. norm_batch, valid: of batch norm in train mode, see
    `layers.batch_norm`; without either it is timm's own, over the whole batch. They are ignored by a model without
    batch norm. frozen: the paths of modules that are in eval mode whatever `train` is. recompute: whether the backward
    pass computes each block again, see `networks.recomputing`; not where torch.compile traces the call.
    Works as the first use of the model too under torch.func, torch.compile(fullgraph=True) and torch.export, and in
    several threads at once. Under vmap a model with batch norm in train mode needs a state for each call: map the state
    too. Raises ValueError for images of another size than the parameters were made for, and for norm_batch or valid
    where batch norm can't take them, as in LeViT.
    """
    weights = tree.to_paths(params)
    # timm's batch norm writes into its buffers; the copies keep our argument as it was.
    buffers = {path: leaf.clone() for path, leaf in tree.to_paths(state).items()}
    norms = Norms(norm_batch, valid is not None) if train and (norm_batch or valid is not None) else None
    if torch.compiler.is_dynamo_compiling():
        from cil_func.networks import timm_traced

        module = timm_traced.skeleton(name, images, train=train, drop=drop, frozen=frozen, norms=norms)
        features = _call(module, weights, buffers, images, valid)
    else:
        image_size = (images.shape[2], images.shape[3]) if timm_skeleton.takes_size(name) else None
        with timm_skeleton.borrow(
            name, image_size, train=train, drop=drop, frozen=frozen, norms=norms, recompute=recompute
        ) as module:
            features = _call(module, weights, buffers, images, valid)
    return features, {}, tree.from_paths({path: leaf.detach() for path, leaf in buffers.items()})


def _call(
    module: torch.nn.Module, weights: dict, buffers: dict, images: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor:
    given = weights | buffers
    for path, leaf in (*module.named_parameters(), *module.named_buffers()):
        if path in given and leaf.shape != given[path].shape:
            raise ValueError(
                f"apply: images of {images.shape[2]}x{images.shape[3]} pixels need {path} {tuple(leaf.shape)}, and it "
                f"is {tuple(given[path].shape)}: the parameters were made for another size; bring the images to it"
            )
    from cil_func.networks import timm_norms  # late: it imports timm

    # What the copy holds after the call is not read: batch norm changes the tensors in `buffers` in place.
    return torch.func.functional_call(module, (weights, timm_norms.with_valid(module, buffers, valid)), (images,))


def feature_dim(name: str) -> int:
    """Returns the width D of the pooled features. Raises ConfigError if timm has no such model."""
    return timm_skeleton.facts(name).feature_dim


def pads(name: str) -> bool:
    """Whether a batch may be filled up with padding: of a model without batch norm, or with one that leaves it out."""
    facts = timm_skeleton.facts(name)
    return facts.groups or not facts.batch_norm
