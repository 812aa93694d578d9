"""Damages the files of checkpoints, to see whether the damage is noticed. Each function tries many cases on copies.

For `benchmarks.reliability` and, with small counts, for the tests. Damage has to be reported, and the checkpoint before
the damaged one has to be loaded.

The functions share these parameters. folder: with checkpoints; it isn't changed. scratch: a folder for the copies,
which doesn't exist yet. count: of cases. seed: of the random choices. load: `checkpoints.newest`, or what is tested in
its place.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from cil_func.errors import CheckpointError
from cil_func.runs import checkpoint_files, checkpoints
from cil_func.runs.checkpoints import Loaded
from cil_func.runs.packing import describe_part, pack_manifest


class Tally(NamedTuple):
    """tried: how many cases were tried; failures: a line for each case that went wrong."""

    tried: int
    failures: list[str]


def example(number: int, *, size: int = 300) -> Loaded:
    """Returns a checkpoint of several dtypes, about 15 * size bytes. Each number has another content."""
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    params = {"weight": numbers.float(), "half": numbers.bfloat16(), "empty": {}, "wide": numbers}
    learned = {"rows": (100 * numbers[:9]).long(), "seen": numbers > 0, "sum": numbers.sum()}
    tree = {"params": params, "learned": learned}
    return Loaded(tree, {"phase": number, "rows": [{"top1": numbers[0].item(), "gamma": None}]}, number)


def same(first: Loaded | None, second: Loaded | None) -> bool:
    """Returns whether two checkpoints are equal to the last bit and in the order of their parts, or both None."""
    if first is None or second is None:
        return first is second
    manifests = []
    for each in (first, second):
        parts = [describe_part({key: part}, number=0) for key, part in each.tree.items()]
        manifests.append(pack_manifest(parts, each.record, number=each.number))
    one, other = manifests
    return one == other


def flip_bits(folder: Path, count: int, *, seed: int, scratch: Path, load: Callable = checkpoints.newest) -> Tally:
    """Flips one random bit in a random file of a random checkpoint, `count` times, each on a fresh copy."""

    def flip(path: Path, draw: random.Random) -> str:
        bit = draw.randrange(8 * path.stat().st_size)
        with open(path, "r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0] ^ 1 << bit % 8
            file.seek(bit // 8)
            file.write(bytes([byte]))
        return f"bit {bit} of {path.name}"

    return _damage(folder, count, flip, seed=seed, scratch=scratch, load=load)


def truncate_and_delete(
    folder: Path, count: int, *, seed: int, scratch: Path, load: Callable = checkpoints.newest
) -> Tally:
    """Cuts a random file of a random checkpoint at a random byte, or deletes it, `count` times on fresh copies."""

    def cut(path: Path, draw: random.Random) -> str:
        if draw.random() < 0.2:
            path.unlink()
            return f"{path.name} deleted"
        size = draw.randrange(path.stat().st_size)
        os.truncate(path, size)
        return f"{path.name} cut to {size} bytes"

    return _damage(folder, count, cut, seed=seed, scratch=scratch, load=load)


def _damage(folder: Path, count: int, damage: Callable, *, seed: int, scratch: Path, load: Callable) -> Tally:
    """Damages the newest checkpoint of a copy, `count` times. damage: called with a file; returns what it did."""
    draw, cases = random.Random(seed), _endings(folder, scratch, load)
    failures = []
    for _ in range(count):
        copy, number, earlier = draw.choice(cases)
        path = draw.choice(_files(copy, number))
        whole = path.read_bytes()
        what = damage(path, draw)
        problem = _unnoticed(copy, number, earlier, load)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is written over
        path.write_bytes(whole)
        failures += [f"{what}: {problem}"] if problem else []
    return Tally(count, failures)


def _endings(folder: Path, scratch: Path, load: Callable) -> list[tuple[Path, int, Loaded | None]]:
    """Returns a copy for each valid checkpoint of `folder`, without the later ones.

    Each is (the copy, the number of its newest checkpoint, the valid checkpoint before that).
    """
    endings, left = [], scratch / "all"
    shutil.copytree(folder, left)
    while (found := load(left)[0]) is not None:
        copy = scratch / str(found.number)
        shutil.copytree(left, copy)
        for path in _files(left, found.number):
            path.unlink()
        endings.append((copy, found.number, load(left)[0]))
    return endings


def _files(folder: Path, number: int) -> list[Path]:
    """Returns a checkpoint's manifest and all parts that it names, also those that earlier checkpoints wrote."""
    names = [checkpoint_files.part_name(part) for part in checkpoint_files.parts_of_checkpoint(folder, number)]
    return [folder / name for name in (checkpoint_files.manifest_name(number), *names)]


def _unnoticed(copy: Path, number: int, earlier: Loaded | None, load: Callable) -> str:
    """Returns what is wrong with what `load` does about the damaged checkpoint `number`; "" for nothing.

    earlier: the valid checkpoint before it.
    """
    try:
        found, problems = load(copy)
    except CheckpointError as error:
        return "" if earlier is None else f"the earlier one is whole, and: {error}"
    except Exception as error:
        return f"load raised {error!r}"
    if not problems or f"checkpoint {number} " not in problems[0]:
        return f"not reported: {problems}"
    return "" if same(found, earlier) else "something else than the earlier one was loaded"
