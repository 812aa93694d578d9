"""The benchmark of timm's backbones runs at tiny sizes, and its differences are those of float64."""

import json

import pytest

from benchmarks import backbones


def test_the_seconds_and_the_speedups_are_written(tmp_path, capsys):
    path = tmp_path / "backbones.json"
    words = ["--quick", "--eager", "--repeats", "1", "--batch-size", "4", "--image-size", "32", "--json", str(path)]
    assert backbones.main(words) == 0
    figures = json.loads(path.read_text())["figures"]
    for name in backbones.QUICK:
        for other, ours in (("module", "float32"), ("module", "auto"), ("module_tuned", "auto")):
            seconds = figures[f"seconds_{name}_{other}"] / figures[f"seconds_{name}_{ours}"]
            assert figures[f"speedup_{name}_{ours}_over_{other}"] == pytest.approx(seconds)  # of a single round
    assert "images/s" in capsys.readouterr().out


def test_the_differences_are_those_of_float64(tmp_path):
    path = tmp_path / "agreement.json"
    assert backbones.main(["--agreement", "--quick", "--eager", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    assert len(figures) == 2 * len(backbones.QUICK) and all(value < 1e-9 for value in figures.values())
