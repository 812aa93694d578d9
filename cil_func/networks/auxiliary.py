"""A linear classifier with an auxiliary one beside it, on the features of the newest backbone alone: the head of DER.

Source: Yan et al. 2021 (arXiv:2103.16788), section 3.3.
"""

import torch

from cil_func import classifier, tree
from cil_func.networks.head import Head


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

    The classifier gets the features of all backbones, (B, P D), the auxiliary head those of this phase's, (B, D), which
    come last where there are fewer blocks than phases. A `networks.head.ApplyHead`.
    """
    feature_dim = shared["auxiliary"]["weight"].shape[1]
    blocks = features.unflatten(1, (-1, feature_dim))                              # (B, P, D)
    now = classes.now.clamp(max=blocks.shape[1] - 1)
    block = (torch.arange(blocks.shape[1], device=features.device) == now).to(features.dtype)          # (P,)
    own = (blocks * block[:, None]).sum(1)                                         # (B, D)
    return classifier.apply(rows, features), {"new": classifier.apply(shared["auxiliary"], own)}


HEAD = Head(shared=shared, renew=renew, apply=apply)
