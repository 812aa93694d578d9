"""Runs that are stopped at each border and go on from there: before each step, between stages, after the selection."""

from itertools import pairwise

import torch

from cil_func import experiment, tree
from cil_func.runs import packing
from cil_func.training.progress import Progress, SaveHook, pack, unpack

CPU = torch.device("cpu")


class Borders(SaveHook):
    """Notes the progress at each border as a checkpoint has it: found, a list of (its words, parts, record)."""

    def __init__(self):
        self.found = []

    def at_border(self, make, boundary):
        parts, record = pack(make())
        written = packing.tree_from_bytes(b"".join(packing.chunks(parts)))
        self.found.append((str(make()), written, record))


class _Next(Borders):
    """Stops at the first border that isn't the one that the run goes on from."""

    def __init__(self, record: dict):
        super().__init__()
        self.begun = _place(record)

    def at_border(self, make, boundary):
        super().at_border(make, boundary)
        if _place(self.found[-1][2]) != self.begun:
            raise _Stopped


class _Stopped(BaseException):
    pass


def run(made: experiment.Experiment, progress: Progress | None = None, hook: SaveHook | None = None) -> Progress:
    """Runs it from `progress` on; returns where it ends."""
    return experiment.run(
        made, emit=lambda event: None, save=lambda results: None, start=lambda: progress or Progress(), hook=hook
    )[0]


def check_each(made: experiment.Experiment, found: list[tuple]) -> None:
    """A run that goes on from a border is at the next one bit for bit where the whole run was. found: that run's."""
    for (words, parts, record), (_, expected, later) in pairwise(found):
        hook = _Next(record)
        try:
            run(made, unpack(parts, record, device=CPU), hook)
        except _Stopped:
            _, again, place = hook.found[-1]
            assert _place(place) == _place(later), words
            again, expected = tree.to_paths(again), tree.to_paths(expected)
            assert again.keys() == expected.keys(), words
            assert all(torch.equal(leaf, expected[path]) for path, leaf in again.items()), words
        else:
            raise AssertionError(f"no border after {words}")


def _place(record: dict) -> dict:
    """A progress's record without seconds."""
    training = record["training"] and {**record["training"], "seconds": None}
    rows = [{**row, "seconds": None} for row in record["rows"]]
    selected = record["select_seconds"] is not None
    return {**record, "training": training, "rows": rows, "select_seconds": selected}
