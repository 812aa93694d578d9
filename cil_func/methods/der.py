"""DER, dynamically expandable representation (Yan et al. 2021, arXiv:2103.16788), without pruning.

Each phase adds a backbone, a copy of the last one; the earlier ones are frozen, and the head sees the features of all.
An auxiliary head on the new features alone tells the new classes apart, and from all old ones as one class. Rows are
aligned at the end of a phase (published as DER without masks). No distillation.
"""

from dataclasses import replace

import torch

from cil_func import classifier, losses, tree
from cil_func.methods import replay, wa
from cil_func.methods.base import Method, Options
from cil_func.networks.head import Head


def make(options: Options, *, auxiliary: float = 1.0) -> Method:
    """Returns DER: replay on a network to which each phase adds a backbone.

    auxiliary: the weight of the auxiliary head's cross-entropy (equation 8). options.align: whether rows are aligned at
    the end of a phase.
    """
    base = replay.make(options)

    def loss(student, teacher, targets, classes):
        other = losses.cross_entropy(
            student.aux["new"], auxiliary_labels(targets.labels, classes), mask=known(classes), rows=targets.rows
        )
        return base.loss(student, None, targets, classes) + auxiliary * classes.old.any().to(other.dtype) * other

    head = Head(shared=shared, renew=renew, apply=apply)
    method = replace(base, name="der", loss=loss, head=head, grow="backbone")
    return replace(method, finish=wa.align) if options.align else method


def auxiliary_labels(labels: torch.Tensor, classes) -> torch.Tensor:
    """Returns the auxiliary head's labels (B,) of a batch: a new class keeps its label, any old class has the label C.

    labels: (B,) int64, 0 to C - 1.
    """
    return torch.where(classes.old[labels], len(classes.old), labels)


def known(classes) -> torch.Tensor:
    """Returns which outputs of the auxiliary head take part, (C + 1,) bool.

    They are those of the new classes, and the last one if any class is old.
    """
    return torch.cat([classes.new, classes.old.any()[None]])


def shared(key: int, feature_dim: int, num_classes: int, num_phases: int) -> dict:
    """Returns {"auxiliary": linear classifier} on the features of one backbone, drawn from the int seed `key`.

    It has an output for each of the run's classes, and one more for all old classes. A `networks.head.InitShared`.
    """
    return {"auxiliary": classifier.init(key, feature_dim, num_classes + 1)}


def renew(shared: dict, key: int) -> dict:
    """Returns the auxiliary head that a later phase starts from: it is drawn anew, from the int seed `key`."""
    outputs, feature_dim = shared["auxiliary"]["weight"].shape
    drawn = classifier.init(key, feature_dim, outputs)
    return {"auxiliary": tree.map(lambda new, old: new.to(old), drawn, shared["auxiliary"])}


def apply(rows, shared, features, classes):
    """Returns (logits (B, K), {"new": (B, C + 1)}), those of the linear classifier and those of the auxiliary head.

    The classifier gets the features of all backbones, (B, P D), the auxiliary head those of this phase's, (B, D). A
    `networks.head.ApplyHead`.
    """
    feature_dim = shared["auxiliary"]["weight"].shape[1]
    blocks = features.unflatten(1, (-1, feature_dim))                              # (B, P, D)
    block = (torch.arange(blocks.shape[1], device=features.device) == classes.now).to(features.dtype)  # (P,)
    own = (blocks * block[:, None]).sum(1)                                         # (B, D)
    return classifier.apply(rows, features), {"new": classifier.apply(shared["auxiliary"], own)}
