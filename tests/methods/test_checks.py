"""What functions of methods and optimisers return, where a slip would show far from its place."""

import pytest
import torch

from cil_func.errors import OwnCodeError
from cil_func.methods import checks


def test_tensors_come_to_the_device_as_they_are():
    """On the meta device, which every machine has."""
    found = checks.tensors({"a": {"b": torch.zeros(2)}, "c": [torch.ones(()), None]}, "it", torch.device("meta"))
    assert found["a"]["b"].device.type == found["c"][0].device.type == "meta" and found["c"][1] is None


@pytest.mark.parametrize(("found", "says"), [
    ({"t": 0}, 'it returned 0 under "t"; a tensor fits'), ({"a": [{"b": "x"}]}, 'it returned "x" under "a.0.b"'),
    ({"a": object()}, 'it returned a object under "a"'),
    ([torch.zeros(1)], "it returned a list; a dict of tensors fits"),
    (None, "it returned None; a dict"), ({"a": True}, 'it returned true under "a"'),
])  # fmt: skip
def test_what_is_no_tensor_is_named_with_its_place(found, says):
    with pytest.raises(OwnCodeError) as failure:
        checks.tensors(found, "it", torch.device("cpu"))
    assert says in str(failure.value)
