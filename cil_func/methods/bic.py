"""BiC, bias correction (Wu et al. 2019, arXiv:1905.13260): replay with distillation, and two numbers a phase.

Stage 1 trains without a part of the exemplars and as many new images; stage 2 learns alpha and beta on that part, with
which the logits of the newest classes become alpha s + beta (section 4.2). The part is taken out of the memory budget.
"""

from dataclasses import replace
from typing import Literal

from cil_func.methods import distillation, replay
from cil_func.methods.base import Method, Options, Stage
from cil_func.methods.ranges import Part
from cil_func.networks import corrections
from cil_func.networks.head import Head


def make(options: Options, *, layers: Literal["newest", "all"] = "newest", share: Part = 0.1) -> Method:
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
    head = Head(
        shared=corrections.start, apply=corrections.newest if layers == "newest" else corrections.every
    )
    return replace(
        method, name="bic", head=head, trainable=lambda path: not _is_bias(path), hold_out=share, stages=(bias,)
    )


def small_beta(params, extra, classes):
    """Returns 0.05 beta^2, a 0-d tensor, for this phase's beta. A `methods.base.Penalty`."""
    return 0.05 * corrections.of_phase(params["head"]["beta"], classes.now) ** 2


def _is_bias(path: str) -> bool:
    return path.startswith("head.")
