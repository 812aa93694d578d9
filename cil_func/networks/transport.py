"""A cosine classifier whose rows are carried over between old and new classes by optimal transport: the head of COIL.

With the plan T of old classes j and new classes k, T_jk >= 0, and w for rows of length 1:

    prospective row of k ~ sum_j T_jk w_j          retrospective row of j ~ sum_k T_jk w_k

    rows = {"weight": (K, D)}, shared = {"sigma": (), "plan": (C, C), "prospective": (C, D)}

T moves as little as it can, by the distances of the classes' mean features. "plan" (T) and "prospective" are set at the
start of a phase (`imprint`) and not trained.
Source: Zhou, Ye and Zhan 2021 (arXiv:2107.12654), prospective and retrospective transport.
"""

import torch
import torch.nn.functional as F

from cil_func import metrics
from cil_func.networks import cosine
from cil_func.networks.head import Head
from cil_func.networks.outputs import Classes
from cil_func.tree import Tree

FIXED = ("head.plan", "head.prospective")  # what no step changes


def shared(key: int, width: int, num_classes: int, num_phases: int) -> Tree:
    """Returns the shared parameters before the first transport: the learned scale, 1, and zeros. key: ignored."""
    zeros = {"plan": torch.zeros(num_classes, num_classes), "prospective": torch.zeros(num_classes, width)}
    return cosine.scale(key, width, num_classes, num_phases) | zeros


def apply(rows: Tree, shared: Tree, features: torch.Tensor, classes: Classes) -> tuple[torch.Tensor, dict]:
    """Returns (logits (B, K), {"prospective", "retrospective"}): those of `cosine`, and cosines of transported rows.

    "prospective": (B, K), to the rows that the new classes began with. "retrospective": (B, K), for old classes, to the
    present rows of the new ones, carried back; no gradient flows into these rows. The other columns are 0.
    """
    logits, aux = cosine.apply(rows, shared, features, classes)
    units, count = F.normalize(features, dim=1), logits.shape[1]
    back = shared["plan"][:count, :count] @ F.normalize(rows["weight"].detach(), dim=1)  # (K, D)
    both = {"prospective": shared["prospective"][:count], "retrospective": back}
    return logits, aux | {name: units @ F.normalize(moved, dim=1).T for name, moved in both.items()}


HEAD = Head(cosine.draw, cosine.expand, shared, apply=apply)


def imprint(
    params: Tree,
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: Classes,
    key: int,
    *,
    entropy: float,
    norm: float,
) -> Tree:
    """Returns params with the plan of a phase, and with the rows of its new classes transported from the old ones.

    features, labels: of the new classes' images and the old ones' exemplars. An old class without exemplars is placed
    at its row. The cost of moving between two classes is the distance of their mean features, by the norm of order
    `norm`. entropy: see `sinkhorn`. key: ignored. The new rows are as long as the old ones in the mean.
    """
    weight, old = params["classifier"]["weight"], int(classes.old.sum())
    units = F.normalize(weight.double().cpu(), dim=1)  # (K, D)
    bare = torch.tensor([label for label in range(old) if label not in labels], dtype=torch.int64)
    placed = torch.cat([features.double(), units[bare]]), torch.cat([labels, bare])
    means = metrics.class_means(*placed, len(weight))  # (K, D)
    plan = sinkhorn(torch.cdist(means[:old], means[old:], p=norm), entropy=entropy)
    moved = plan.T @ units[:old]
    moved = (moved * (weight[:old].norm(dim=1).mean().cpu() / moved.norm(dim=1).mean())).to(weight)
    head = {name: torch.zeros_like(leaf) for name, leaf in params["head"].items()} | {"sigma": params["head"]["sigma"]}
    head["plan"][:old, old : len(weight)] = old * plan.to(weight)
    head["prospective"][old : len(weight)] = moved
    return {**params, "classifier": {"weight": torch.cat([weight[:old], moved])}, "head": head}


def sinkhorn(cost: torch.Tensor, *, entropy: float, steps: int = 10_000) -> torch.Tensor:
    """Returns the plan T (n, m) that minimises sum_jk T_jk (cost_jk + entropy log T_jk).

    Its rows sum to 1 / n and its columns to 1 / m. cost: (n, m) float64. entropy: above 0; the smaller, the nearer is T
    to the optimal transport, and the more steps it takes. steps: at most so many.
    Source: Cuturi 2013 (arXiv:1306.0895), algorithm 1, by logarithms.
    """
    kernel, rows, columns = -cost / entropy, -cost.new_tensor(len(cost)).log(), -cost.new_tensor(cost.shape[1]).log()
    first, plan = cost.new_zeros(len(cost)), kernel.exp()
    for _ in range(steps):
        second = columns - (kernel + first[:, None]).logsumexp(0)  # (m,)
        first = rows - (kernel + second).logsumexp(1)  # (n,)
        plan = (kernel + first[:, None] + second).exp()
        if (plan.sum(0) - columns.exp()).abs().max() <= 1e-14:
            break
    return plan
