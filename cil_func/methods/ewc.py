"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796).

Weights that the old classes depend on are held back by a quadratic penalty (equation 3); how much they matter is the
diagonal of the Fisher information. No image is kept.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Interval

from cil_func import losses, tree
from cil_func.methods import lwf, quadratic
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Weight


def make(
    options: Options,
    *,
    strength: Weight = 1000.0,
    per: Literal["image", "batch"] = "image",
    labels: Literal["data", "predicted"] = "data",
    clip: Weight = 1e-3,
    keep: Annotated[float, Interval(le=1)] | Literal["share"] = -1.0,
) -> Method:
    """Returns EWC: cross-entropy over the new classes, and the penalty of `quadratic` by the Fisher information.

    strength: lambda of equation 3.
    per: the Fisher information from the gradient of each image, or of each batch, which published toolboxes take and
    which is smaller by about the size of a batch.
    labels: whose probability is differentiated: "data": the image's; "predicted": the class that the model finds
    likeliest.
    clip: largest Fisher information of a weight; 0: no limit. Without a limit a badly trained phase makes the next one
    diverge: learning rate * strength * clip has to stay below about 2.
    keep: below 0: importances add up over the phases, as in the paper. From 0 to 1: the share of the old importances in
    the new ones. "share": that share is the share of old classes in all classes seen.
    Published: FACIL: strength 5000, per batch, predicted, keep 0.5; PyCIL: 1000, per batch, data, clip 1e-4,
    keep "share".
    """

    method = lwf.over_new_classes(options)
    extra = quadratic.extra(partial(fisher, labels=labels), per=per, clip=clip, keep=keep)
    return replace(method, name="ewc", extra=extra, penalty=quadratic.penalty(strength))


def fisher(params: tree.Tree, logits_of, batch_labels: torch.Tensor, *, labels: str, classes) -> tree.Tree:
    """Returns the squared gradient of the mean over a batch of -log p(label), for each parameter: a tree like params.

    logits_of(params) -> logits (B, C). batch_labels: (B,) int64. labels: "data" takes these, "predicted" the likeliest
    of the classes seen. classes: which are seen. With the other arguments bound it is a `methods.base.Measure`.
    """

    def loss(params):
        logits = logits_of(params)                                                 # (B, C)
        if labels == "predicted":
            chosen = logits.detach().masked_fill(~classes.seen, -torch.inf).argmax(dim=1)
        else:
            chosen = batch_labels
        return losses.cross_entropy(logits, chosen, mask=classes.seen)

    return tree.map(torch.square, torch.func.grad(loss)(params))
