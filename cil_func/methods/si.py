"""SI, synaptic intelligence (Zenke et al. 2017, arXiv:1703.04200).

A weight matters as much as its moves have lowered the loss: the integral of gradient times move along the training's
path. It is held back by the penalty of EWC. No image is kept.
"""

from dataclasses import replace
from typing import Literal

from cil_func import tree
from cil_func.methods import lwf, quadratic
from cil_func.methods.base import Method, Options
from cil_func.methods.extra import Extra
from cil_func.methods.ranges import Positive, Weight


def make(
    options: Options, *, strength: Weight = 0.1, damping: Positive = 0.1, negative: Literal["clip", "keep"] = "clip"
) -> Method:
    """Returns SI: cross-entropy over the new classes, and strength * sum of importance (w - anchor)^2 (equation 4).

    strength: c of equation 4. damping: xi of equation 5, above 0.
    negative: what becomes of an importance below 0, whose penalty would drive the weight away: "clip": it becomes 0, as
    in the authors' code; "keep": it stays, as in equation 5 and in FACIL's code.
    """

    def after(extra, params, passes, classes):
        gained = tree.map(
            lambda path, anchor, weight: path / ((weight - anchor) ** 2 + damping),
            extra["path"], extra["anchor"], params,
        )  # fmt: skip
        total = tree.map(lambda old, new: old + new, extra["importance"], gained)
        return {"importance": tree.map(lambda leaf: leaf.clamp(min=0), total) if negative == "clip" else total}

    method = replace(lwf.over_new_classes(options), name="si", penalty=quadratic.penalty(2 * strength))
    return replace(method, extra=Extra(start, after, begin=begin), track=track)


def start(params: tree.Tree) -> tree.Tree:
    """Returns what is remembered between phases, before phase 0: {"importance": a tree like params, all 0}."""
    return {"importance": tree.map(lambda leaf: leaf * 0, params)}


def begin(extra: tree.Tree, params: tree.Tree, classes) -> tree.Tree:
    """Returns what is remembered while a phase trains. A `methods.extra.BeginExtra`.

    {"importance": as before it, "anchor": the params that it starts from, "path": a tree like params, all 0}.
    """
    return {**extra, "anchor": params, "path": tree.map(lambda leaf: leaf * 0, params)}


def track(extra: tree.Tree, before: tree.Tree, after: tree.Tree, grads: tree.Tree, classes) -> tree.Tree:
    """Returns `extra` with a step of the path integral (equation 3) added. A `methods.base.Track`."""
    path = tree.map(
        lambda sum_, grad, old, new: sum_ - grad * (new - old), extra["path"], grads, before, after
    )  # fmt: skip
    return {**extra, "path": path}
