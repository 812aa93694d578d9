"""LUCIR, learning a unified classifier incrementally via rebalancing (Hou et al., CVPR 2019).

A cosine classifier (`networks.cosine`), features that keep their direction, and old images that keep a margin to the
new classes. With s for logits and cos for them before the scale sigma, f and g the features of student and teacher:

    loss = CE(s) + lambda mean(1 - cos(f, g)) + mean over old images and k of max(0, margin - cos_label + cos_k)

k: the `rivals` new classes of the highest cosine; lambda = less_forget sqrt(old classes / new classes) (equations 6
to 9). In the code the last mean is over the old images of a batch. Here it is over their expected number, the share of
old images among those that are trained on: so the loss is a mean over images, and several processes do what one does.
Old rows don't move in a phase. Constants: the authors' code.
"""

from dataclasses import replace

import torch

from cil_func import losses
from cil_func.methods import balance, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Count, Gap, Number, Weight
from cil_func.networks import cosine
from cil_func.networks.head import of_rows


def make(
    options: Options, *, less_forget: Weight = 5.0, margin: Gap = 0.5, rivals: Count = 2, tuned_epochs: Number = 0
) -> Method:
    """Returns LUCIR: replay with the cosine classifier and these losses; phase 0 has the cross-entropy alone.

    less_forget: 5, for ImageNet 10. margin: between the cosine of an old image's class and those of new ones, up to 2.
    rivals: how many new classes an old image is kept from; fewer where a phase brings fewer.
    tuned_epochs: of the stage "balance", which trains the classifier alone, old rows too, by the same loss; the
    authors' ImageNet script has 20; 0: no such stage.
    """
    base = replay.make(options)

    def loss(student, teacher, targets, classes):
        forgets = losses.cosine_distance(student.features, teacher.features, rows=targets.rows)
        num_old, num_new = (known.sum(dtype=forgets.dtype) for known in (classes.old, classes.new))
        ranked = ranking(student.aux["cosines"], targets, classes, margin=margin, rivals=rivals)
        total = base.loss(student, None, targets, classes) + less_forget * (num_old / num_new).sqrt() * forgets
        return total + ranked

    stages = balance.stage(loss, epochs=tuned_epochs, rate=0.01, teacher="last")
    return replace(
        base, name="lucir", loss=loss, head=cosine.HEAD, final_relu=False, rows_trained="new", uses_teacher=True,
        imprint=of_rows(cosine.imprint), stages=stages,
    )  # fmt: skip


def ranking(cosines: torch.Tensor, targets, classes, *, margin: float, rivals: int) -> torch.Tensor:
    """Returns the margin ranking loss, 0-d: 0 where no image is of an old class. cosines: (B, C)."""
    own = cosines.gather(1, targets.labels[:, None])  # (B, 1)
    others = torch.where(classes.new, cosines, -9.0)  # farther than any cosine and margin
    near = others.topk(min(rivals, cosines.shape[1]), dim=1).values  # (B, rivals)
    terms = (margin - own + near).clamp(min=0).sum(1) / classes.new.sum().clamp(max=rivals)  # (B,)
    rows = torch.ones_like(targets.labels, dtype=torch.bool) if targets.rows is None else targets.rows
    counts = classes.counts.to(terms.dtype)
    expected = rows.sum() * torch.where(classes.old, counts, 0).sum() / counts.sum()  # old images in such a batch
    return torch.where(rows & classes.old[targets.labels], terms, 0.0).sum() / expected.clamp(min=1e-9)
