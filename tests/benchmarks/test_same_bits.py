"""The comparison of two runs: what counts as the same."""

import json

import torch
from safetensors.torch import save_file

from benchmarks import same_bits


def run(folder, name: str, weight: float, top1: float, seconds: float):
    directory = folder / name
    directory.mkdir()
    save_file({"w": torch.tensor([1.0, weight])}, directory / "model.safetensors")
    (directory / "results.json").write_text(json.dumps({"phases": [{"top1": top1, "seconds": {"train": seconds}}]}))
    return directory


def test_one_bit_of_a_weight_and_one_number_make_a_difference_and_seconds_do_not(tmp_path):
    base = run(tmp_path, "base", -0.0, 50.0, 1.0)
    assert same_bits.compare(base, run(tmp_path, "same", -0.0, 50.0, 2.0)) == {"weights": 1, "results": 1}
    assert same_bits.compare(base, run(tmp_path, "bit", 0.0, 50.0, 1.0)) == {"weights": 0, "results": 1}
    assert same_bits.compare(base, run(tmp_path, "number", -0.0, 50.5, 1.0)) == {"weights": 1, "results": 0}
