"""What all methods promise, for those that remember, grow or have stages: the same bits twice and from every border."""

from functools import cache

import borders
import five_methods
import launching
import pytest
import torch

from cil_func import tree
from cil_func.training.progress import unpack

pytestmark = pytest.mark.usefixtures("shallow")


@cache
def alone(method: str) -> tuple:
    """(a run of one process, its borders, its result)."""
    made, seen = five_methods.build(method), borders.Borders()
    return made, seen.found, five_methods.result(borders.run(made, hook=seen))


@pytest.mark.parametrize("method", five_methods.METHODS)
def test_a_run_that_goes_on_from_any_border_has_the_same_bits(method):
    """From each to the next; and to the end of the run from the first, one in the middle and the last."""
    made, found, expected = alone(method)
    assert len({words for words, *_ in found}) >= 12
    borders.check_each(made, found)
    for words, parts, record in (found[0], found[len(found) // 2], found[-1]):
        again = five_methods.result(borders.run(made, unpack(parts, record, device=borders.CPU)))
        assert all(map(torch.equal, tree.leaves(again), tree.leaves(expected))), words
    assert tree.leaves(expected[1]) if method in ("ewc", "mas", "si", "rwalk", "il2m", "derpp") else expected[1] == {}


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_learn_the_same(count, tmp_path):
    """Float64: 12 images in groups of 6 on two processes, and on three, of which one has none."""
    words = launching.command(count, str(tmp_path / "weights.pt"), script="tests/support/five_methods.py")
    done = launching.run(words, by=launching.fork)
    assert done.stdout.strip().endswith("saved"), done.stderr
    found = torch.load(tmp_path / "weights.pt", weights_only=False)
    for method in five_methods.METHODS:
        *_, expected = alone(method)
        tree.map(
            lambda mine, theirs: torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9), found[method], expected
        )
