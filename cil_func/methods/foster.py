"""FOSTER, feature boosting and compression (Wang et al. 2022, arXiv:2204.04662): two trainings a phase.

Boosting: a new backbone, a copy of the last model's, beside the last model, which is frozen. s: logits by the features
of both; e: those of a second head, on the new features alone; t: the last model's; T: the temperature.

    loss = CE(s / w) + CE(e) + KD over old classes of s and t,   w_c = (1 - b) / (1 - b^n_c), divided by its mean

n_c: the images of class c that are trained on. A rare class has a large w_c, so its logits have to grow.
Compression, the stage "compress": one backbone, again a copy of the last model's, learns from the boosted one, t:

    loss = -sum_c q_c log softmax(s / T)_c,   q_c = w_c softmax(t / T)_c, divided by their sum

No aligning. Exemplars and results are the compressed model's; a row's `top1_before_compress` is the boosted one's.
"""

from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import MinLen

from cil_func import losses
from cil_func.methods import replay
from cil_func.methods.base import Method, Options, Stage
from cil_func.methods.ranges import Share
from cil_func.networks import auxiliary

Shares = Annotated[tuple[Share, ...], MinLen(1)]


def make(options: Options, *, beta1: Share | Shares = 0.97, beta2: Share = 0.97) -> Method:
    """Returns FOSTER. options.temperature: T of both trainings.

    beta1, beta2: b of the boosting and of the compression; 0: all w are 1. Of beta1 also one number for each phase from
    1 on, the last of which holds for all later phases: the authors' CIFAR-100 scripts have them.
    """
    base, soften = replay.make(options), options.temperature
    by_phase = beta1 if isinstance(beta1, tuple) else (beta1,)

    def boosted(student, teacher, targets, classes):
        known = classes.old.any()
        at = (classes.now - 1).clamp(0, len(by_phase) - 1)
        beta = sum(value * (at == place).to(student.logits.dtype) for place, value in enumerate(by_phase))
        aligned = student.logits / torch.where(known, rarity(classes, beta, student.logits), 1.0)
        total = base.loss(student._replace(logits=aligned), None, targets, classes)
        of_new = base.loss(student._replace(logits=student.aux["new"][:, :-1]), None, targets, classes)
        kd = losses.distillation(
            student.logits, teacher.logits, temperature=soften, mask=classes.old, rows=targets.rows
        )
        return total + known.to(kd.dtype) * (of_new + kd)

    def compressed(student, teacher, targets, classes):
        weighted = teacher.logits + soften * rarity(classes, beta2, teacher.logits).log()
        return losses.distillation(student.logits, weighted, temperature=soften, mask=classes.seen, rows=targets.rows)

    compress = Stage(
        "compress", compressed, trainable=lambda path: not path.startswith("head."), uses_teacher=True,
        teacher="before", compresses=True, optim={"weight_decay": 0.0},
    )  # fmt: skip
    return replace(
        base, name="foster", loss=boosted, uses_teacher=True, head=auxiliary.HEAD, grow="pair", stages=(compress,)
    )


def rarity(classes, beta: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns w (C,), see this module: of mean 1 over the classes seen, and 1 for others. like: of its dtype.

    Source: Cui et al. 2019 (arXiv:1901.05555), the inverse of the effective number of samples.
    """
    counts = classes.counts.clamp(min=1).to(like.dtype)  # 1: a class without exemplars
    inverse = torch.where(classes.seen, (1 - beta) / (1 - beta**counts), 0.0)
    return torch.where(classes.seen, inverse * classes.seen.sum() / inverse.sum(), 1.0)
