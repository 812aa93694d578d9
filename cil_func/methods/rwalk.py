"""RWalk, Riemannian walk (Chaudhry et al. 2018, arXiv:1801.10112): EWC and SI together. No image is kept.

A weight matters by its Fisher information, a moving average over the training (EWC++), and by a score: how much its
moves have lowered the loss, relative to how far they have moved the predictions.
"""

from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Interval

from cil_func import tree
from cil_func.methods import lwf, quadratic
from cil_func.methods.base import Method, Options
from cil_func.methods.extra import Extra
from cil_func.methods.ranges import Count, Positive, Weight


def make(
    options: Options, *, strength: Weight = 1.0, every: Count = 50,
    decay: Annotated[float, Interval(gt=0, le=1)] = 0.9, damping: Positive = 1e-3,
) -> Method:  # fmt: skip
    """Returns RWalk: cross-entropy over the new classes, and strength * sum of (F + s) (w - anchor)^2 (equation 8).

    every: after so many steps, and at the end of a phase, the Fisher information becomes F = decay * the mean of the
    steps' squared gradients + (1 - decay) F, and each weight's score grows by its gain / (F / 2 * move^2 + damping), if
    that is above 0 (section 4.2). gain: the sum of -gradient * move of those steps.
    A later phase's scores are averaged with those before it. In the penalty F and s are each divided by their largest
    number; the authors' code subtracts the smallest before, which is about 0. FACIL divides by nothing, takes F from a
    pass at the end of a phase, and a whole phase for one move.
    """

    def close(extra, weights, count):
        fisher = tree.map(lambda old, sum_: (1 - decay) * old + decay * sum_ / count, extra["fisher"], extra["squares"])
        gathered = tree.map(
            lambda sum_, gain, info, start, now: sum_ + (gain / (info / 2 * (now - start) ** 2 + damping)).clamp(min=0),
            extra["gathered"], extra["gain"], fisher, extra["since"], weights,
        )  # fmt: skip
        return {**opened(extra, weights), "fisher": fisher, "gathered": gathered}

    def track(extra, before, after, grads, classes):
        gain = tree.map(lambda sum_, grad, old, new: sum_ - grad * (new - old), extra["gain"], grads, before, after)
        squares = tree.map(lambda sum_, grad: sum_ + grad**2, extra["squares"], grads)
        counted = {**extra, "gain": gain, "squares": squares, "steps": extra["steps"] + 1}
        ends = counted["steps"] % every == 0
        return tree.map(lambda old, new: torch.where(ends, new, old), counted, close(counted, after, every))

    def finish(extra, params, passes, classes):
        left = int(extra["steps"]) % every
        extra = close(extra, params, left) if left else extra
        share = 0.5 if classes.old.any() else 1.0
        score = tree.map(lambda old, new: (1 - share) * old + share * new, extra["score"], extra["gathered"])
        return {"fisher": extra["fisher"], "score": score}

    method = replace(lwf.over_new_classes(options), name="rwalk", penalty=quadratic.penalty(2 * strength))
    return replace(method, extra=Extra(start, finish, begin=begin), track=track)


def start(params: tree.Tree) -> tree.Tree:
    """Returns what is remembered between phases, before phase 0: {"fisher", "score"}, trees like params, all 0."""
    return {"fisher": tree.map(lambda leaf: leaf * 0, params), "score": tree.map(lambda leaf: leaf * 0, params)}


def begin(extra: tree.Tree, params: tree.Tree, classes) -> tree.Tree:
    """Returns what is remembered while a phase trains. A `methods.extra.BeginExtra`."""
    importance = tree.map(torch.add, *(divided(extra[name]) for name in ("fisher", "score")))
    gathered, steps = tree.map(lambda leaf: leaf * 0, params), torch.zeros_like(classes.now)
    # Copies: "since" starts as `params` and changes in the first step. A step whose input has the same tensors twice,
    # and then no longer, is compiled twice.
    anchor = tree.map(torch.clone, params)
    more = {"importance": importance, "anchor": anchor, "gathered": gathered, "steps": steps}
    return {**opened(extra, params), **more}


def opened(extra: tree.Tree, weights: tree.Tree) -> tree.Tree:
    """Returns `extra` with sums of 0 over the steps to come, which start from `weights`."""
    gain, squares = (tree.map(lambda leaf: leaf * 0, weights) for _ in range(2))
    return {**extra, "gain": gain, "squares": squares, "since": weights}


def divided(part: tree.Tree) -> tree.Tree:
    """Returns the numbers of a tree, 0 or more, divided by the largest of them all."""
    largest = torch.stack([leaf.max() for leaf in tree.leaves(part)]).max().clamp(min=1e-30)
    return tree.map(lambda leaf: leaf / largest, part)
