"""BiC, bias correction (Wu et al. 2019, arXiv:1905.13260): replay with distillation, and two numbers a phase.

Stage 1 trains without a part of the exemplars and as many new images; stage 2 learns alpha and beta on that part, with
which the logits of the newest classes become alpha s + beta (section 4.2). The part is taken out of the memory budget.
"""

from dataclasses import replace
from typing import Literal

import torch

from cil_func import classifier
from cil_func.methods import distillation, replay
from cil_func.methods.base import Method, Options, Stage
from cil_func.networks.head import Head


def make(options: Options, *, layers: Literal["newest", "all"] = "newest", share: float = 0.1) -> Method:
    """Returns BiC: replay with distillation, and a second training, the stage "bias", in each phase with old classes.

    layers: "newest": as the paper's own code, only the newest classes are corrected; earlier corrections reach the
    student through its teacher. "all": each phase keeps its own correction, as published toolboxes have it.
    share: of an old class's exemplars, how large a part is held out for the stage "bias".
    The official code trains this stage with 0.05 beta^2 added, beside cross-entropy; so does this.
    """
    base = replay.make(options)
    method = distillation.add(base, options)
    bias = Stage(
        "bias", base.loss, rows="held_out", trainable=_is_bias, norm="eval", penalty=small_beta,
        optim={"epochs": 200, "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0},
    )  # fmt: skip
    head = Head(shared=start, apply=newest if layers == "newest" else every)
    return replace(
        method, name="bic", head=head, trainable=lambda path: not _is_bias(path), hold_out=share, stages=(bias,)
    )


def start(key: int, feature_dim: int, num_classes: int, num_phases: int) -> dict:
    """Returns the shared parameters of no correction: alpha 1 and beta 0 for each of the run's P phases, (P,) each.

    A `networks.head.InitShared`; key, feature_dim and num_classes are ignored.
    """
    return {"alpha": torch.ones(num_phases), "beta": torch.zeros(num_phases)}


def newest(rows, shared, features, classes):
    """Returns (logits (B, K), {}): the linear classifier's, those of this phase's classes replaced by alpha s + beta.

    A `networks.head.ApplyHead`. alpha and beta are those of this phase.
    """
    logits = classifier.apply(rows, features)
    alpha, beta = (of_phase(shared[name], classes.now) for name in ("alpha", "beta"))
    is_new = (classes.phase == classes.now)[: logits.shape[1]]
    return torch.where(is_new, alpha * logits + beta, logits), {}


def every(rows, shared, features, classes):
    """Returns (logits (B, K), {}): the linear classifier's, each corrected by alpha and beta of its class's phase.

    A `networks.head.ApplyHead`. Only this phase's alpha and beta have a gradient.
    """
    logits = classifier.apply(rows, features)
    phase = classes.phase[: logits.shape[1]]                                       # (K,)
    moves = torch.arange(len(shared["alpha"]), device=phase.device) == classes.now  # (P,)
    alpha, beta = (torch.where(moves, leaf, leaf.detach())[phase] for leaf in (shared["alpha"], shared["beta"]))
    return alpha * logits + beta, {}


def small_beta(params, extra, classes):
    """Returns 0.05 beta^2, a 0-d tensor, for this phase's beta. A `methods.base.Penalty`."""
    return 0.05 * of_phase(params["head"]["beta"], classes.now) ** 2


def of_phase(values: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """Returns values[now], 0-d, without reading `now` on the host. values: (P,); now: 0-d int64."""
    return values.gather(0, now[None])[0]


def _is_bias(path: str) -> bool:
    return path.startswith("head.")
