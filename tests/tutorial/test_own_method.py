"""The method of chapter 8, which is WA with a part of its aligning."""

import torch

from cil_func.methods import Options, wa
from cil_func.tutorial import own_method

PARAMS = {"classifier": {"weight": torch.tensor([[3.0, 4.0], [0.0, 20.0]]), "bias": torch.tensor([1.0, 2.0])}}


def test_power_one_is_wa_and_zero_leaves_the_rows():
    """Rows of lengths 5 and 20, so gamma is 1/4 and its root 1/2. Biases and old rows stay."""
    for power, factor in ((1.0, 0.25), (0.5, 0.5), (0.0, 1.0)):
        made = own_method.make(Options(), power=power)
        found, gamma = made.finish(PARAMS, 1)
        assert gamma.item() == factor
        assert found["classifier"]["weight"].tolist() == [[3.0, 4.0], [0.0, 20.0 * factor]]
        assert found["classifier"]["bias"].tolist() == [1.0, 2.0]
    theirs, _ = wa.make(Options()).finish(PARAMS, 1)
    ours, _ = own_method.make(Options(), power=1.0).finish(PARAMS, 1)
    assert torch.equal(ours["classifier"]["weight"], theirs["classifier"]["weight"])
    assert made.uses_teacher and made.uses_memory
