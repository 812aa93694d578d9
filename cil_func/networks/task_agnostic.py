"""The head of TagFex: DER's, and what reads a second backbone that learns without labels.

    z = projector(t)       p = old(predictor(t))       s = transfer(mean over pixels of attention([t's map, f's map]))

t: features of the second backbone, f: those of the newest one. old: the last phase's projector, which isn't trained.
The attention's queries come from f's map, its keys and values from both; t's map has no gradient from it.
Source: Zheng et al. 2025 (arXiv:2503.00823), and the authors' code.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from cil_func import classifier, rng, tree
from cil_func.errors import ConfigError
from cil_func.networks import auxiliary, beside
from cil_func.networks.head import Head
from cil_func.tree import Tree

MAP = "map"


def head(*, hidden: int, width: int, heads: int) -> Head:
    """Returns the head. hidden, width: of the projector's two layers. heads: of the attention."""
    return Head(
        shared=partial(shared, hidden=hidden, width=width, heads=heads), renew=renew, apply=auxiliary.apply,
        maps=partial(of_second, heads=heads),
    )  # fmt: skip


def last_map(maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns {MAP: (B, N, D)}, the N pixels of the last feature map as they are pooled. A `networks.outputs.Taps`."""
    return {MAP: F.relu(maps[-1]).flatten(2).transpose(1, 2)}


def shared(
    key: int, feature_dim: int, num_classes: int, num_phases: int, *, hidden: int, width: int, heads: int
) -> Tree:
    """Returns the parameters that belong to no class, drawn from the int seed `key`. See `head`.

    Raises ConfigError if the heads of the attention don't divide the features.
    """
    if feature_dim % heads:
        raise ConfigError(f"method.options.heads: {heads}, and the backbone has {feature_dim} features; a divisor fits")
    first, second = (rng.fold_in(key, name) for name in ("first", "second"))
    projector = {"first": classifier.init(first, feature_dim, hidden), "second": classifier.init(second, hidden, width)}
    return {
        **auxiliary.shared(key, feature_dim, num_classes, num_phases),
        "projector": projector,
        "old": projector,
        "predictor": classifier.init(rng.fold_in(key, "predictor"), feature_dim, feature_dim),
        **_of_phase(key, feature_dim, num_classes),
    }


def renew(shared: Tree, key: int) -> Tree:
    """Returns the parameters that a later phase starts from: "old" is the projector, and what transfers is drawn anew.

    shared: the last phase's. key: an int seed.
    """
    num_classes, feature_dim = shared["transfer"]["weight"].shape
    drawn = tree.cast(_of_phase(key, feature_dim, num_classes), **_like(shared["transfer"]["bias"]))
    return {**shared, **auxiliary.renew(shared, key), "old": shared["projector"], **drawn}


def begin(params: Tree, num_new: int, phase: int, key: int, *, blend: float) -> Tree:
    """Returns the params that a later phase starts from. A `networks.head.BeginPhase`.

    The new backbone is blend * newest + (1 - blend) * second one. Old classes' rows don't see its features: there they
    are 0. The first predictor is that of phase 1, which is drawn now: before, weight decay alone has moved it.
    """
    rows, shared = params["classifier"], params["head"]
    feature_dim = len(shared["predictor"]["bias"])
    weight = rows["weight"].clone()
    weight[:-num_new, phase * feature_dim : (phase + 1) * feature_dim] = 0
    if phase == 1:
        drawn = classifier.init(rng.fold_in(key, "predictor"), feature_dim, feature_dim)
        shared = {**shared, "predictor": tree.cast(drawn, **_like(weight))}
    backbone = beside.blended(params["backbone"], blend)
    return {**params, "backbone": backbone, "classifier": {**rows, "weight": weight}, "head": shared}


def of_second(rows: Tree, shared: Tree, aux: dict[str, torch.Tensor], *, heads: int) -> dict[str, torch.Tensor]:
    """Returns {"z": (B, width), "p": (B, width), "s": (B, C)}, see this module. A `networks.head.OfMaps`.

    Of a teacher, whose maps aren't taken, z alone.
    """
    features = aux[beside.KEY]  # (B, D)
    found = {"z": project(shared["projector"], features)}
    if MAP in aux:
        merged = attend(shared["attention"], aux[f"{beside.KEY}.{MAP}"].detach(), aux[MAP], heads=heads)
        found["p"] = project(shared["old"], classifier.apply(shared["predictor"], features))
        found["s"] = classifier.apply(shared["transfer"], merged.mean(1))
    return found


def project(params: Tree, features: torch.Tensor) -> torch.Tensor:
    """Returns features (B, D) through a layer, a ReLU and another layer: (B, width)."""
    return classifier.apply(params["second"], F.relu(classifier.apply(params["first"], features)))


def attend(params: Tree, second: torch.Tensor, own: torch.Tensor, *, heads: int) -> torch.Tensor:
    """Returns the attention of own pixels (B, N, D) to the pixels of both maps, each normalised: (B, N, D).

    second: the other map, (B, N, D). params: {"query": (D, D), "second": of that map, "own": of this one}, each of the
    two {"key": (D, D), "value": (D, D), "norm": {"weight": (D,), "bias": (D,)}}.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2, without the last linear layer.
    """

    def split(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)

    pixels = {"second": second, "own": own}
    pixels = {name: F.layer_norm(leaf, leaf.shape[2:], **params[name]["norm"]) for name, leaf in pixels.items()}
    query = split(pixels["own"] @ params["query"])
    keys, values = (
        split(torch.cat([pixels[name] @ params[name][of] for name in pixels], dim=1)) for of in ("key", "value")
    )  # (B, heads, 2 N, D / heads)
    weights = (query @ keys.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
    return (weights @ values).transpose(1, 2).flatten(2)


def _of_phase(key: int, feature_dim: int, num_classes: int) -> Tree:
    """Returns what each phase draws anew. Matrices of the attention are drawn from N(0, 1 / feature_dim)."""

    def matrix(*name: str) -> torch.Tensor:
        drawn = torch.randn(feature_dim, feature_dim, generator=rng.generator(rng.fold_in(key, *name)))
        return drawn / math.sqrt(feature_dim)

    def of_map(name: str) -> Tree:
        norm = {"weight": torch.ones(feature_dim), "bias": torch.zeros(feature_dim)}
        return {"key": matrix(name, "key"), "value": matrix(name, "value"), "norm": norm}

    return {
        "attention": {"query": matrix("query"), "second": of_map("second"), "own": of_map("own")},
        "transfer": classifier.init(rng.fold_in(key, "transfer"), feature_dim, num_classes),
    }


def _like(leaf: torch.Tensor) -> dict:
    return {"dtype": leaf.dtype, "device": leaf.device}
