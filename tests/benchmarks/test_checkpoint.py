"""The benchmark of saving: its figures, and that it saves what it says."""

import json

import pytest

from benchmarks import checkpoint
from cil_func import tree
from cil_func.config_schema import Checkpoint


def test_figures(tmp_path, capsys):
    path = tmp_path / "checkpoint.json"
    command = ["--repeats", "2", "--backbone", "resnet20", "--folder", str(tmp_path), "--json", str(path)]
    assert checkpoint.main(command) == 0
    written = json.loads(path.read_text())
    figures = written["figures"]
    parts = {f"{part}_seconds" for part in ("save", "load", "pack", "hash", "write", "rest")}
    assert figures.keys() == parts | {"save_seconds_worst", "megabytes", "percent_of_interval"}
    assert all(figures[part] > 0 for part in parts - {"rest_seconds"})
    every = Checkpoint().every_seconds
    assert figures["percent_of_interval"] == pytest.approx(100 * figures["save_seconds"] / every)
    assert written["conditions"]["file_system"]
    assert "percent_of_interval" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.json"]


def test_it_is_a_whole_train_state():
    """ResNet-32 with 100 classes: 469,804 parameters three times (student, momentum, teacher), statistics twice."""
    made = checkpoint.train_state("resnet32")
    sizes = {name: tree.size(part) for name, part in made.items()}
    # 3x3 kernels: stem 3 -> 16; 10, 10 and 10 of 16, 32 and 64 channels, of which the first of a stage comes from fewer
    kernels = 9 * (3 * 16 + 10 * 16**2 + 16 * 32 + 9 * 32**2 + 32 * 64 + 9 * 64**2)
    channels = 11 * 16 + 10 * 32 + 10 * 64  # a norm behind each
    parameters = kernels + 2 * channels + 64 * 100 + 100
    assert sizes["params"] == sizes["opt_state"] - 2 == parameters  # momentum and decay are two numbers more
    assert sizes["learned"] == parameters + sizes["state"] and sizes["state"] >= 2 * channels
