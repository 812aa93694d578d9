"""The linear classifier whose logits are corrected by two numbers a phase, alpha s + beta: the head of BiC.

Source: Wu et al. 2019 (arXiv:1905.13260), section 4.2.
"""

import torch

from cil_func import classifier


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

    def of_class(values: torch.Tensor) -> torch.Tensor:
        """Returns (K,). The gradient of values[phase] would be added up in any order on a GPU."""
        return torch.where(phase == classes.now, of_phase(values, classes.now), values.detach()[phase])

    return of_class(shared["alpha"]) * logits + of_class(shared["beta"]), {}


def of_phase(values: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """Returns values[now], 0-d, without reading `now` on the host. values: (P,); now: 0-d int64."""
    return values.gather(0, now[None])[0]
