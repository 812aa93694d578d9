"""A cosine classifier with one row a class and a learned scale, without bias: the head of LUCIR.

    logits = sigma cos(f, w_c),   rows = {"weight": (K, D)}, shared = {"sigma": ()}

Source: Hou et al. 2019 (CVPR, "Learning a Unified Classifier Incrementally via Rebalancing"), section 3.2, equation 4.
"""

import torch
import torch.nn.functional as F

from cil_func import classifier
from cil_func.networks.head import Head
from cil_func.tree import Tree


def draw(key: int, width: int, count: int) -> Tree:
    """Returns {"weight": (count, width)}, drawn from U(-1/sqrt(width), 1/sqrt(width)) by the int seed `key`."""
    return {"weight": classifier.init(key, width, count)["weight"]}


def expand(rows: Tree, key: int, num_new: int) -> Tree:
    """Returns the rows with num_new classes more, drawn at random, which `imprint` then sets to better values."""
    weight = rows["weight"]
    return {"weight": torch.cat([weight, draw(key, weight.shape[1], num_new)["weight"].to(weight)])}


def scale(key: int, width: int, num_classes: int, num_phases: int) -> Tree:
    """Returns the shared parameters: {"sigma": ()}, the learned scale, 1 at first. All arguments are ignored."""
    return {"sigma": torch.ones(())}


def apply(rows: Tree, shared: Tree, features: torch.Tensor, classes: object) -> tuple[torch.Tensor, dict]:
    """Returns (logits (B, K), {"cosines": (B, K)}); a feature or row of zeros has the cosine 0. A `head.ApplyHead`."""
    cosines = F.normalize(features, dim=1) @ F.normalize(rows["weight"], dim=1).T  # (B, K)
    return shared["sigma"] * cosines, {"cosines": cosines}


HEAD = Head(draw, expand, scale, apply=apply)


def imprint(rows: Tree, features: torch.Tensor, labels: torch.Tensor, key: int) -> Tree:
    """Returns the rows with that of each new class set to the direction of its mean normalised feature.

    rows: the new classes' rows are the last ones. features: (N, D) of the new classes' images. labels: (N,) int64. key:
    ignored. The new rows are as long as the old ones in the mean.
    """
    weight, new = rows["weight"].clone(), sorted(set(labels.tolist()))
    length = weight[: new[0]].norm(dim=1).mean()
    for label in new:
        mean = F.normalize(features[labels == label].to(weight), dim=1).mean(dim=0)
        weight[label] = F.normalize(mean, dim=0) * length
    return {"weight": weight}
