"""A quadratic penalty on moving weights that matter: what EWC and MAS have in common.

    penalty = strength / 2 * sum over weights i of importance_i (w_i - anchor_i)^2

The sum over phases k of importance_k (w - w_k)^2 is such a penalty plus a constant: the importances add up, and the
anchor is the mean of the w_k weighted by them. So two trees remember any number of phases.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from cil_func import tree
from cil_func.methods.base import Penalty
from cil_func.methods.extra import Extra


def start(params: tree.Tree) -> tree.Tree:
    """Returns what is remembered before phase 0: {"importance", "anchor"}, trees like params, all 0."""
    return {"importance": tree.map(lambda leaf: leaf * 0, params), "anchor": tree.map(lambda leaf: leaf * 0, params)}


def penalty(strength: float) -> Penalty:
    """Returns the penalty as a function (params, extra, classes) -> 0-d tensor.

    extra: {"importance", "anchor"}, from `start` or `remember`.
    """

    def value(params, extra, classes):
        terms = tree.map(
            lambda importance, anchor, weight: (importance * (weight - anchor) ** 2).sum(),
            extra["importance"], extra["anchor"], params,
        )  # fmt: skip
        return strength / 2 * sum(tree.leaves(terms))

    return value


def remember(extra: tree.Tree, params: tree.Tree, importance: tree.Tree, *, keep: float | None = None) -> tree.Tree:
    """Returns what is remembered, {"importance", "anchor"}, after a phase that ended with `params`.

    extra: what was remembered before it. importance: how much each weight matters for this phase's images, a tree like
    params.
    keep: None: the penalty is the sum over all phases, each with its own weights, exactly. A number in [0, 1]: the
    anchor is `params`, and importances are keep * old + (1 - keep) * new, as published toolboxes have it.
    """
    if keep is not None:
        mixed = tree.map(lambda old, new: keep * old + (1 - keep) * new, extra["importance"], importance)
        return {"importance": mixed, "anchor": params}
    total = tree.map(lambda old, new: old + new, extra["importance"], importance)
    anchor = tree.map(
        lambda old, new, sum_, weight: old + (new / sum_.clamp(min=1e-30)) * (weight - old),
        extra["anchor"], importance, total, params,
    )  # fmt: skip
    return {"importance": total, "anchor": anchor}


def extra(
    importance: Callable[..., tree.Tree], *, per: Literal["image", "batch"], clip: float, keep: float | Literal["share"]
) -> Extra:
    """Returns what a method with this penalty remembers.

    importance(params, logits_of, labels, classes=classes) -> a tree like params: see `methods.base.Measure`.
    per, clip, keep: see `ewc.make`.
    """

    def after(extra, params, passes, classes):
        measured = passes.mean(partial(importance, classes=classes), by=per)
        if clip:
            measured = tree.map(lambda leaf: leaf.clamp(max=clip), measured)
        if keep == "share":
            return remember(extra, params, measured, keep=int(classes.old.sum()) / int(classes.seen.sum()))
        return remember(extra, params, measured, keep=None if keep < 0 else keep)

    return Extra(start, after)
