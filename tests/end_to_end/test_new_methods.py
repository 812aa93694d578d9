"""What all methods promise, for those that remember, grow or have stages: the same bits twice and from every border."""

import five_methods
import launching
import pytest
import torch

from cil_func import tree
from cil_func.runs import packing
from cil_func.training.progress import SaveHook, pack, unpack

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("shallow")


class Borders(SaveHook):
    """Notes the progress at each border, as a checkpoint has it."""

    def __init__(self):
        self.found = []

    def at_border(self, make, boundary):
        parts, record = pack(make())
        written = packing.tree_from_bytes(b"".join(packing.chunks(parts)))
        self.found.append((str(make()), written, record))


@pytest.mark.parametrize("method", five_methods.METHODS)
def test_a_run_that_goes_on_from_any_border_has_the_same_bits(method):
    """Before each step, between and inside stages, after the selection; and a second whole run too."""
    made, borders = five_methods.build(method), Borders()
    expected = five_methods.result(five_methods.run(made, hook=borders))
    assert len({words for words, *_ in borders.found}) >= 12
    for words, parts, record in borders.found[::3] + borders.found[-4:]:
        again = five_methods.run(made, unpack(parts, record, device=CPU))
        same = zip(tree.leaves(five_methods.result(again)), tree.leaves(expected), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in same), words
    assert tree.leaves(expected[1]) if method in ("ewc", "mas", "si", "rwalk", "il2m", "derpp") else expected[1] == {}


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_learn_the_same(count, tmp_path):
    """Float64: 12 images in groups of 6 on two processes, and on three, of which one has none."""
    words = launching.command(count, str(tmp_path / "weights.pt"), script="tests/support/five_methods.py")
    done = launching.run(words, by=launching.fork)
    assert done.stdout.strip().endswith("saved"), done.stderr
    found = torch.load(tmp_path / "weights.pt", weights_only=False)
    for method in five_methods.METHODS:
        alone = five_methods.result(five_methods.run(five_methods.build(method)))
        tree.map(
            lambda mine, theirs: torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9), found[method], alone
        )
