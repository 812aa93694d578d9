"""What functions of methods and optimisers return, where a slip would show far from its place."""

import pytest
import torch

from cil_func.errors import OwnCodeError
from cil_func.methods import Method, checks
from cil_func.runs import packing


def test_tensors_come_to_the_device_as_they_are():
    """On the meta device, which every machine has."""
    found = checks.tensors({"a": {"b": torch.zeros(2)}, "c": torch.ones(()), "d": {}}, "it", torch.device("meta"))
    assert found["a"]["b"].device.type == found["c"].device.type == "meta" and found["d"] == {}


@pytest.mark.parametrize(("found", "says"), [
    ({"t": 0}, 'it returned 0 under "t"; a tensor fits'), ({"a": {"b": "x"}}, 'it returned "x" under "a.b"'),
    ({"a": object()}, 'it returned a object under "a"'),
    ([torch.zeros(1)], "it returned a list; a dict of tensors fits"),
    (None, "it returned None; a dict"), ({"a": True}, 'it returned true under "a"'),
    ({"a": [torch.zeros(1)]}, 'it returned a list under "a"'), ({"a": {"b": None}}, 'it returned None under "a.b"'),
    ({"a": {"b.c": torch.zeros(1)}}, 'a part under the key "b.c"; a text without a dot fits'),
    ({0: torch.zeros(1)}, "a part under the key 0; a text"),
    ({"a": torch.zeros(1, dtype=torch.complex64)}, 'it returned a complex64 tensor under "a"; a dense one of float64'),
    ({"a": torch.zeros(1, dtype=torch.uint16)}, "it returned a uint16 tensor"),
    ({"a": torch.zeros(1).to_sparse()}, "it returned a sparse_coo tensor"),
])  # fmt: skip
def test_what_a_checkpoint_cannot_hold_is_named_with_its_place(found, says):
    with pytest.raises(OwnCodeError) as failure:
        checks.tensors(found, "it", torch.device("cpu"))
    assert says in str(failure.value)


def test_a_tensor_is_taken_if_a_checkpoint_holds_its_dtype():
    assert set(checks._DTYPES) == set(packing._DTYPES)


@pytest.mark.parametrize("emptied", [{"a": {"b": torch.zeros(2)}}, {"a": {"b": torch.zeros(2), "d": {}}, "c": None}])
def test_dicts_without_tensors_may_come_or_go(emptied):
    """As the package's own partition and merge drop them."""
    given = {"a": {"b": torch.ones(2, dtype=torch.float64)}, "c": {}}
    found = checks.alike(emptied, given, "it")
    assert found["c"] == {} and found["a"].keys() == {"b"}
    assert found["a"]["b"].dtype == torch.float64 and not found["a"]["b"].any()


@pytest.mark.parametrize("gamma", [float("inf"), float("nan"), torch.tensor(-float("inf"))])
def test_gamma_is_a_finite_number(gamma):
    method = Method(name="own", loss=lambda *given: None, finish=lambda params, num_new: (params, gamma))
    with pytest.raises(OwnCodeError, match=r"finish of own returned .* as gamma; a number or None fits"):
        checks.finish(method, {"w": torch.zeros(2)}, 1)
