"""The benchmark of activation checkpointing with a small network: its figures, measured in this process."""

import json
from types import SimpleNamespace

from benchmarks import recompute


class Here:
    """Stands for a process pool."""

    def __init__(self, *settings): ...

    def __enter__(self):
        return self

    def __exit__(self, *failure): ...

    def submit(self, function, *arguments):
        peak, *others = function(*arguments)
        return SimpleNamespace(result=lambda: (peak or 1, *others))  # this process may have had a higher peak


def test_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recompute, "ProcessPoolExecutor", Here)
    path = tmp_path / "recompute.json"
    assert recompute.main(["--quick", "--repeats", "1", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    planned = [figures[f"planned_bytes_resnet20_{way}"] for way in ("kept", "recomputed")]
    assert 0 < planned[1] < planned[0] / 2
    seconds = [figures[f"seconds_resnet20_{way}"] for way in ("kept", "recomputed")]
    assert figures["ratio_seconds_resnet20"] == seconds[1] / seconds[0] > 0
    assert "resnet20, 4 of 8x8, recomputed" in capsys.readouterr().out
