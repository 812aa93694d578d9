"""IL2M, a second memory of statistics (Belouadah and Popescu, ICCV 2019): replay, and predictions rectified by ratios.

If the likeliest class is new, the probability p_c of each old class c becomes (section 3.2, equation 1)

    p_c (born_c / now_c) (sure / sure_c)

born_c: the mean of p_c over the class's own images when it was new. now_c: over its exemplars, by the present model.
sure: the mean of the highest probability over the new images of this phase; sure_c: of the phase that brought c.
The paper speaks of scores, and its code reads them from files; here they are probabilities, for a product of logits has
no meaning where they are negative. Training is replay's.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from cil_func.methods import replay
from cil_func.methods.base import Method, Options
from cil_func.methods.extra import Extra


def make(options: Options) -> Method:
    """Returns IL2M. What it remembers is three numbers a class: {"classifier": {"born", "now", "sure"}, "sure"}."""
    return replace(replay.make(options), name="il2m", extra=Extra(start, after), rectify=rectify)


def start(params):
    """Returns what is remembered before phase 0: zeros, (C,) each, and 0-d."""
    row = params["classifier"]["weight"][:, 0]
    return {"classifier": {name: torch.zeros_like(row) for name in ("born", "now", "sure")}, "sure": row.new_zeros(())}


def after(extra, params, passes, classes):
    """Returns what is remembered after a phase, measured on its images and on the exemplars of old classes."""
    measure, old = partial(measured, classes=classes), extra["classifier"]
    new, kept = passes.mean(measure, by="batch"), passes.mean(measure, by="batch", of="exemplars")
    own, now = (each["scores"] / each["images"].clamp(min=1e-30) for each in (new, kept))  # (C,)
    born, sure = torch.where(classes.new, own, old["born"]), torch.where(classes.new, new["sure"], old["sure"])
    return {"classifier": {"born": born, "now": now, "sure": sure}, "sure": new["sure"]}


def measured(params, logits_of, labels, *, classes):
    """Returns means over a batch: {"scores", "images"} (C,), of an image's class alone, and "sure". A `Measure`."""
    scores = logits_of(params).masked_fill(~classes.seen, -torch.inf).softmax(dim=1)  # (B, C)
    own = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    return {"scores": (own * scores).mean(0), "images": own.mean(0), "sure": scores.amax(dim=1).mean()}


def rectify(logits, extra, classes):
    """Returns logarithms of the rectified probabilities, (N, K), which don't add up to 1. A `methods.base.Rectify`.

    A class without exemplars, whose `now` is 0, is not rectified, nor is one that another method has learned, in a run
    that this one extends: its `born` and `sure` are 0.
    """
    known = {name: leaf[: logits.shape[1]] for name, leaf in extra["classifier"].items()}  # (K,)
    measured = torch.stack([*known.values()]).amin(dim=0) > 0
    ratios = (known["born"] / known["now"]) * (extra["sure"] / known["sure"])
    gains = torch.where(classes.old[: len(ratios)] & measured, ratios, 1.0).log()
    of_new = classes.new[logits.argmax(dim=1)]  # (N,)
    return logits.log_softmax(dim=1) + torch.where(of_new[:, None], gains, 0.0)
