"""Packing: bytes give back exactly what was packed, or are refused."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from benchmarks.reliability_helpers import damage
from cil_func import tree
from cil_func.errors import CheckpointError
from cil_func.runs import packing


def packed(tree, record, *, number: int) -> tuple[bytes, list[bytes]]:
    """Returns (manifest, the bytes of each part), as a save writes them."""
    branches = [{key: branch} for key, branch in tree.items()]
    parts = [packing.describe_part(branch, number=number) for branch in branches]
    data = [b"".join(map(bytes, packing.chunks(branch))) for branch in branches]
    return packing.pack_manifest(parts, record, number=number), data


def small() -> tuple[bytes, bytes]:
    manifest, (data,) = packed({"w": torch.tensor([1.0, 2.0])}, {"phase": 3, "name": "a b"}, number=7)
    return manifest, data


def bits(leaf: torch.Tensor) -> list[int]:
    return leaf.reshape(-1).contiguous().view(torch.uint8).tolist()


def by_hand(data: bytes, fields: dict) -> bytes:
    """Returns the manifest of `data`, made by hand from the description at the top of `packing`."""
    part = {"number": 7, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    body = json.dumps({"format": 2, "number": 7, "record": {}, "parts": [part], **fields}).encode()[:-1]
    return body + b', "self": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def test_all_bits_come_back_in_their_order():
    wide = torch.arange(12.0).view(3, 4)
    odd = torch.tensor([0x7FC00123, -0x3FFEDD, 0, -(2**31)], dtype=torch.int32).view(torch.float32)  # NaNs, -0.0
    leaves = {
        "z": {"last": wide, "transposed": wide.t(), "row": wide[1], "same": wide, "spread": wide[:, :1].expand(3, 5)},
        "a": {"odd": odd, "none": {}, "half": odd.bfloat16(), "nothing": torch.empty(0, 3, dtype=torch.float64)},
        "m": {"deep": {"empty": {}}, "count": torch.tensor(2**62 + 1), "flag": torch.tensor([True, False])},
    }
    found = packing.unpack_checkpoint(*packed(leaves, {}, number=0)).tree
    assert {key: list(part) for key, part in found.items()} == {key: list(part) for key, part in leaves.items()}
    assert found["a"]["none"] == {} and found["m"]["deep"] == {"empty": {}}
    for path, leaf in tree.to_paths(leaves).items():
        other = tree.to_paths(found)[path]
        assert (other.dtype, other.shape) == (leaf.dtype, leaf.shape)
        assert bits(other) == bits(leaf)
        assert other.data_ptr() % 64 == 0  # where torch's own allocator puts it
    assert found["m"]["count"].item() == 2**62 + 1
    found["z"]["last"].add_(1)
    assert wide[0, 0] == 0 and found["z"]["same"][0, 0] == 0


def test_the_record_comes_back_exactly():
    numbers = [0.1, 1 / 3, 5e-324, -0.0, 1e22, 1.7976931348623157e308, 2**70, 1, 1.0, True, None]
    record = {"rows": [{"top1": number} for number in numbers], "name": "é\u2028\ud800\n", "": {}, "none": []}
    found = packing.unpack_checkpoint(*packed({}, record, number=2**40))
    assert found.number == 2**40 and repr(found.record) == repr(record)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {0: "a"}, (1, 2), {1}, np.float32(1), np.ones(1), b"a", object()],
    ids=lambda value: type(value).__name__,
)
def test_a_record_that_json_would_change_is_refused(value):
    with pytest.raises(ValueError, match=r"pack_manifest: .*JSON"):
        packing.pack_manifest([], {"rows": [value]}, number=0)


def test_a_leaf_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"state\.count is of type int"):
        packing.describe_part({"state": {"count": 3}}, number=0)
    with pytest.raises(TypeError, match=r"z is of torch\.complex64; tensors of F64, .*BOOL fit"):
        packing.describe_part({"z": torch.zeros(1, dtype=torch.complex64)}, number=0)


def test_the_bytes_are_those_of_the_library():
    """Numbers of one size may have any order; the library has an order of its own."""
    leaves = {"wide": torch.arange(6.0, dtype=torch.float64).view(2, 3).t(), "half": torch.ones(3).bfloat16(),
              "flags": torch.tensor([True, False]), "é": {"n": torch.tensor(5, dtype=torch.int32)}}  # fmt: skip
    flat = {path: leaf.contiguous() for path, leaf in tree.to_paths(leaves).items()}
    written = safetensors.torch.save(flat, {"paths": json.dumps(["wide", "half", "flags", "é.n"])})
    assert b"".join(map(bytes, packing.chunks(leaves))) == written
    part = packing.describe_part(leaves, number=4)
    assert part == (4, hashlib.sha256(written).hexdigest(), len(written))


def test_every_type_that_is_named_comes_back():
    numbers = torch.tensor([0, 1, 2, 3])
    leaves = {name: numbers.to(dtype) for dtype, name in packing._DTYPES.items()}
    found = safetensors.torch.load(b"".join(map(bytes, packing.chunks(leaves))))
    assert all(found[name].dtype == leaf.dtype and torch.equal(found[name], leaf) for name, leaf in leaves.items())


def test_the_bytes_are_the_described_format():
    """Bytes made by hand are read by the package, and its bytes are read by hand."""
    data = safetensors.torch.save({"a.b": torch.ones(2)}, {"paths": '["a.b"]'})
    found = packing.unpack_checkpoint(by_hand(data, {"record": {"x": 0.1}}), [data])
    assert found.tree["a"]["b"].tolist() == [1, 1] and found[1:] == ({"x": 0.1}, 7)
    manifest, data = small()
    assert manifest == by_hand(data, {"record": {"phase": 3, "name": "a b"}})
    assert safetensors.torch.load(data)["w"].tolist() == [1.0, 2.0]


def test_every_flipped_bit_every_cut_and_every_addition_shows():
    manifest, data = small()
    assert packing.unpack_checkpoint(manifest, [data]).number == 7
    for which, whole in enumerate((manifest, data)):
        damaged = [whole[:size] for size in range(len(whole))]
        damaged += [whole + b"\n", b" " + whole, whole + whole, whole.replace(b'"', b' "', 1)]
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            damaged.append(bytes(flipped))
        for bytes_ in damaged:
            with pytest.raises(CheckpointError, match=("its manifest is damaged", "its data are")[which]):
                packing.unpack_checkpoint(*((bytes_, [data]) if which == 0 else (manifest, [bytes_])))


def test_the_data_of_another_checkpoint_are_refused():
    first, second = (packed(*damage.example(number)[:2], number=number) for number in (1, 2))
    assert list(map(len, first[1])) == list(map(len, second[1]))
    with pytest.raises(CheckpointError, match="its data are damaged"):
        packing.unpack_checkpoint(first[0], second[1])


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"format": 1}, r"format is 1.* reads 2; use the version"),
     ({"parts": [{"number": 7, "sha256": "", "size": 3}]}, "and 3 were written")],
)  # fmt: skip
def test_an_undamaged_manifest_that_does_not_fit_is_refused_with_the_reason(fields, says):
    _, data = small()
    with pytest.raises(CheckpointError, match=says):
        packing.unpack_checkpoint(by_hand(data, fields), [data])


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_nothing_is_unpickled(tmp_path, form):
    if form == "torch":
        torch.save({"paths": Trap(tmp_path / "trap")}, tmp_path / "data")
        data = (tmp_path / "data").read_bytes()
    else:
        data = pickle.dumps(Trap(tmp_path / "trap"))
    with pytest.raises(CheckpointError, match="not those of a checkpoint"):
        packing.unpack_checkpoint(by_hand(data, {}), [data])
    assert not (tmp_path / "trap").exists()
