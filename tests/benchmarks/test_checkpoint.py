"""The benchmark of saving: its figures, and what it saves."""

import json

import pytest
import torch

from benchmarks import checkpoint
from cil_func import tree
from cil_func.config.schema import Checkpoint


def test_figures(tmp_path, capsys):
    path = tmp_path / "checkpoint.json"
    backbones = ["--backbone", "resnet20", "--large", "resnet32"]
    command = ["--repeats", "2", *backbones, "--folder", str(tmp_path), "--json", str(path)]
    assert checkpoint.main(command) == 0
    written = json.loads(path.read_text())
    figures = written["figures"]
    names = {f"{part}_seconds" for part in checkpoint.PARTS} | {
        "loop_seconds_worst", "megabytes", "memory_megabytes", "percent_of_interval", "percent_of_processors",
    }  # fmt: skip
    assert figures.keys() == names | {f"{name}_vit" for name in names}
    assert all(figures[name] > 0 for name in figures if not name.startswith("memory"))
    every, cores = Checkpoint().every_seconds, written["conditions"]["cores"]
    for end in ("", "_vit"):
        assert figures[f"percent_of_interval{end}"] == pytest.approx(100 * figures[f"loop_seconds{end}"] / every)
        expected = 100 * figures[f"processor_seconds{end}"] / (every * cores)
        assert figures[f"percent_of_processors{end}"] == pytest.approx(expected)
    assert figures["megabytes"] == pytest.approx(3 * 4 * 0.2756 + 2 * 0.003, rel=0.1)  # weights, momentum, teacher
    assert written["conditions"]["file_system"]
    assert "percent of 60 s that the training waits" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.json"]


def test_it_is_a_whole_train_state():
    """ResNet-32 with 100 classes: 469,804 parameters three times (student, momentum, teacher), statistics twice."""
    runs = checkpoint.states("resnet32", torch.device("cpu"))
    first, second = next(runs), next(runs)
    state, (learned, statistics) = first.training.train_state, first.learned
    sizes = {name: tree.size(part) for name, part in {**state._asdict(), "learned": learned}.items()}
    # 3x3 kernels: stem 3 -> 16; 10, 10 and 10 of 16, 32 and 64 channels, of which the first of a stage comes from fewer
    kernels = 9 * (3 * 16 + 10 * 16**2 + 16 * 32 + 9 * 32**2 + 32 * 64 + 9 * 64**2)
    channels = 11 * 16 + 10 * 32 + 10 * 64  # a norm behind each
    parameters = kernels + 2 * channels + 64 * 100 + 100
    assert sizes["params"] == sizes["opt_state"] - 2 == parameters  # momentum and decay are two numbers more
    assert sizes["learned"] == parameters and sizes["state"] == tree.size(statistics) >= 2 * channels
    assert first.learned is second.learned and first.place != second.place
    assert {*map(id, tree.leaves(state.params))}.isdisjoint(map(id, tree.leaves(second.training.train_state.params)))
