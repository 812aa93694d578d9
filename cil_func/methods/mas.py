"""MAS, memory aware synapses (Aljundi et al. 2018, arXiv:1711.09601).

As EWC, but a weight matters as much as it moves the model's output: the mean absolute gradient of the squared length
of the logits (equation 2 and section 4.1). It needs no labels.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Interval

from cil_func import tree
from cil_func.methods import lwf, quadratic
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Weight


def make(
    options: Options,
    *,
    strength: Weight = 0.01,
    per: Literal["image", "batch"] = "image",
    length: Literal["squared", "norm"] = "squared",
    clip: Weight = 1e3,
    keep: Annotated[float, Interval(le=1)] | Literal["share"] = -1.0,
) -> Method:
    """Returns MAS: cross-entropy over the new classes, and the penalty of `quadratic` by the sensitivity of the output.

    strength: lambda. per: gradients of each image, or of the mean of each batch.
    length: of the logits, "squared" as in the paper, or the "norm" itself.
    clip: largest importance of a weight, as in `ewc`; 0: no limit.
    keep: below 0: importances add up over the phases, as in the paper. From 0 to 1: the share of the old importances in
    the new ones. "share": that share is the share of old classes in all classes seen.
    Published: FACIL: strength 1, per batch, norm, keep 0.5.
    """

    method = lwf.over_new_classes(options)
    extra = quadratic.extra(partial(sensitivity, length=length), per=per, clip=clip, keep=keep)
    return replace(method, name="mas", extra=extra, penalty=quadratic.penalty(strength))


def sensitivity(params: tree.Tree, logits_of, batch_labels: torch.Tensor, *, length: str, classes) -> tree.Tree:
    """Returns the absolute gradient of the mean length of a batch's logits, for each parameter: a tree like params.

    logits_of(params) -> logits (B, C), of which those of the classes seen count. batch_labels: ignored. length:
    "squared" or "norm". With length and classes bound it is a `methods.base.Measure`.
    """

    def output(params):
        logits = torch.where(classes.seen, logits_of(params), 0.0)                 # (B, C)
        squares = logits.square().sum(dim=1)                                       # (B,)
        return (squares if length == "squared" else squares.sqrt()).mean()

    return tree.map(torch.abs, torch.func.grad(output)(params))
