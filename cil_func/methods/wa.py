"""WA, weight aligning (Zhao et al. 2020, arXiv:1911.07053): replay with distillation, then aligned rows.

After a phase the newest rows of the classifier are longer than the old ones, so nearly everything is
called new. Scaling them to the same mean norm undoes that (`classifier.align`).
"""

from dataclasses import replace

import torch

from cil_func import classifier
from cil_func.methods import distillation, replay
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns WA: replay with distillation, whose classifier is aligned after each phase.

    options: without `align` nothing is aligned; with `clip_weights` the classifier's weights are clipped after each
    update; those of distillation: see `distillation.add`.
    """
    method = replace(distillation.add(replay.make(options), options), name="wa")
    if options.align:
        method = replace(method, finish=align)
    return replace(method, project=clip) if options.clip_weights else method


def align(params: dict, num_new: int) -> tuple[dict, torch.Tensor]:
    """Returns (params, gamma): `classifier.align` of the classifier in a model's params. A `methods.base.Finish`."""
    head, gamma = classifier.align(params["classifier"], num_new)
    return {**params, "classifier": head}, gamma


def clip(params: dict) -> dict:
    """Returns params with the classifier's weights, of new and old rows, clipped to at least 0.

    So a row's norm measures how much it pulls predictions. A `methods.base.Project`.
    """
    head = params["classifier"]
    return {**params, "classifier": {**head, "weight": head["weight"].clamp(min=0)}}
