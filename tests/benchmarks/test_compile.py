"""The compile benchmark with small sizes and without inductor: its figures, and a child that fails."""

import json
from types import SimpleNamespace

import one_conv
import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks import compile

SMALL = (
    "--backbone", one_conv.NAME, "--image-size", "16", "--batch-size", "20", "--images", "4", "--backend", "eager",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(compile, "SIZES", (10, 2, 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the children: two threads on a busy machine wait for each other


@pytest.fixture
def children_here(monkeypatch):
    """Lets child processes run in this process, which has all imports."""

    def run(command, **settings):
        assert command[1:3] == ["-m", "benchmarks.compile"] and (settings["cwd"] / "benchmarks").is_dir()
        torch._dynamo.reset()
        counters.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "compile", torch.compile)  # which the child replaces
            return SimpleNamespace(returncode=compile.main(command[3:]))

    monkeypatch.setattr(compile, "subprocess", SimpleNamespace(run=run))


def test_figures(tmp_path, capsys, children_here):
    path = tmp_path / "compile.json"
    assert compile.main([*SMALL, "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    figures = written["figures"]
    parts = ("step", "step_with_teacher", "forward")
    expected = {f"{name}_{part}_seconds" for name in ("cold", "warm") for part in parts}
    assert figures.keys() == expected | {"cold_seconds", "warm_seconds", "graphs"}
    for name in ("cold", "warm"):
        total = sum(figures[f"{name}_{part}_seconds"] for part in parts)
        assert figures[f"{name}_seconds"] == pytest.approx(total) and total > 0
    assert figures["graphs"] >= 1 and isinstance(figures["graphs"], int)
    assert written["conditions"]["config"]["data"]["initial_increment"] == 10
    assert "graphs" in capsys.readouterr().out


def test_a_child_that_fails_is_reported(tmp_path, capfd):
    path = tmp_path / "compile.json"
    assert compile.main([*SMALL, "--set", "memory.size=3", "--json", str(path)]) == 1
    captured = capfd.readouterr().err
    assert "memory.size" in captured and "cold process failed" in captured
    assert not path.exists()
