"""The scaling benchmark with small sizes: what it counts, and the model by arithmetic."""

import json
from types import SimpleNamespace

import launching
import pytest
import reference

from benchmarks import scaling

SMALL = (
    "--rounds", "1", "--steps", "2", "--threads", "2", "--backbone", "resnet20", "--image-size", "8",
    "--batch-size", "8", "--set", "run.compile=false", "--set", "run.precision=float32",
)  # fmt: skip


def test_figures(tmp_path, capsys, monkeypatch):
    def run(words, *, env, cwd):
        return launching.run(words, by=launching.fork, env=env)

    monkeypatch.setattr(scaling, "subprocess", SimpleNamespace(run=run))
    path = tmp_path / "scaling.json"
    assert scaling.main([*SMALL, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    assert figures["collectives_a_step"] == 1  # whatever there is to send
    network = reference.ResNet(20, 100)
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    numbers = sum(leaf.numel() for leaf in (*network.parameters(), *buffers))
    assert figures["bytes_a_step"] == 4 * (numbers + 4)  # float32; and loss, right ones, images, signal
    assert figures["scaling_2"] == pytest.approx(figures["images_per_second_2"] / figures["images_per_second_1"])
    assert figures["model_strong_1"] == figures["model_weak_1"] == 1
    assert "scaling_2" in capsys.readouterr().out


def test_the_model_by_arithmetic(monkeypatch):
    monkeypatch.setattr(scaling, "ASSUMED", {"latency_seconds": 0.5, "bandwidth_bytes_per_second": 10.0})
    found = scaling.model(40.0, 8.0)
    # two GPUs: 2 x 1 hop, each 0.5 s and 20 bytes at 10 a second: 5 s
    assert found["model_strong_2"] == 32 / (16 + 5) and found["model_weak_2"] == 16 / (8 + 5)
    # eight: 2 x 7 hops of 0.5 + 0.5 s; the batch has four groups, so one GPU's work is a quarter
    assert found["model_strong_8"] == 32 / (8 + 14) and found["model_weak_8"] == 64 / (8 + 14)
