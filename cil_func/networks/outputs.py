"""What a network returns for a batch, and which classes are known: records of tensors that enter a compiled step."""

from typing import NamedTuple, Protocol

import torch


class Outputs(NamedTuple):
    """What a network says about a batch.

    logits: (B, K), in training for all C classes of the run. features: (B, feature_dim), what the head was given.
    aux: more tensors by name, each (B, ...), from the taps and from the head.
    """

    logits: torch.Tensor
    features: torch.Tensor
    aux: dict[str, torch.Tensor] = {}  # noqa: RUF012 (never changed in place)


class Taps(Protocol):
    """maps -> tensors by name, each (B, ...), which become `Outputs.aux`.

    maps: the output of each block of the backbone before its ReLU, (B, C, H, W) each, in order.
    """

    def __call__(self, maps: list[torch.Tensor], /) -> dict[str, torch.Tensor]: ...


class Classes(NamedTuple):
    """Which of the run's C classes are seen by the end of a phase: tensors, so that one step serves all phases.

    seen: (C,) bool, this phase's classes included. old: (C,) bool, those seen before this phase.
    phase: (C,) int64, the phase in which each class arrives. now: () int64, the index of this phase.
    counts: (C,) int64, how many images of each class this stage trains on.
    progress: () float, which share of the stage's epochs is done: 0 in its first epoch, below 1 in its last one.
    The last four are None where a caller has no use for them.
    """

    seen: torch.Tensor
    old: torch.Tensor
    # None is not among the types: each loss would have to assert, in the compiled step, what every run gives it.
    phase: torch.Tensor = None  # type: ignore[assignment]  # see above
    now: torch.Tensor = None  # type: ignore[assignment]  # see above
    counts: torch.Tensor = None  # type: ignore[assignment]  # see above
    progress: torch.Tensor = None  # type: ignore[assignment]  # see above

    @property
    def new(self) -> torch.Tensor:
        """(C,) bool: the classes that arrive in this phase."""
        return self.seen & ~self.old


def classes_of(sizes: list[int], now: int, *, device: torch.device | str = "cpu") -> Classes:
    """Returns the `Classes` of phase `now`; counts and progress are None.

    sizes: how many classes each phase of the run brings. now: 0, 1, ... device: where the tensors are made.
    """
    labels, seen = torch.arange(sum(sizes), device=device), sum(sizes[: now + 1])
    phase = torch.repeat_interleave(torch.tensor(sizes)).to(device)
    return Classes(labels < seen, labels < seen - sizes[now], phase, torch.tensor(now, device=device))
