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
    """Replay on a network that grows. auxiliary: weight of the auxiliary head's cross-entropy (equation 8)."""
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
    """(B,): the label of a new class, and C for any old one."""
    return torch.where(classes.old[labels], len(classes.old), labels)


def known(classes) -> torch.Tensor:
    """(C + 1,) bool: the outputs of the auxiliary head that take part."""
    return torch.cat([classes.new, classes.old.any()[None]])


def shared(key: int, feature_dim: int, num_classes: int, num_phases: int) -> dict:
    """The auxiliary head: a linear classifier of the run's classes and one output more, on one backbone's features."""
    return {"auxiliary": classifier.init(key, feature_dim, num_classes + 1)}


def renew(shared: dict, key: int) -> dict:
    """The auxiliary head is drawn anew in each phase."""
    outputs, feature_dim = shared["auxiliary"]["weight"].shape
    drawn = classifier.init(key, feature_dim, outputs)
    return {"auxiliary": tree.map(lambda new, old: new.to(old), drawn, shared["auxiliary"])}


def apply(rows, shared, features, classes):
    """(logits (B, K), {"new": (B, C + 1)}): the linear classifier on all features (B, P D), and the auxiliary head."""
    feature_dim = shared["auxiliary"]["weight"].shape[1]
    blocks = features.unflatten(1, (-1, feature_dim))                              # (B, P, D)
    block = (torch.arange(blocks.shape[1], device=features.device) == classes.now).to(features.dtype)  # (P,)
    own = (blocks * block[:, None]).sum(1)                                         # (B, D)
    return classifier.apply(rows, features), {"new": classifier.apply(shared["auxiliary"], own)}
