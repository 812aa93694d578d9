"""The benchmark of exported models: its figures, and that it compares equal answers."""

import json

import pytest
import torch

from benchmarks import export


def test_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "BATCHES", (1, 3))
    monkeypatch.setattr(export, "BACKBONE", "resnet20")
    predictor = export.drawn()
    monkeypatch.setattr(export, "exported", lambda model: {"pt2": predictor})
    path = tmp_path / "export.json"
    assert export.main(["--repeats", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    names = ("seconds_eager_{}_beside_pt2", "seconds_pt2_{}", "speedup_pt2_{}", "difference_pt2_{}")
    assert figures.keys() == {name.format(count) for name in names for count in (1, 3)}
    assert all(value > 0 for name, value in figures.items() if not name.startswith("difference"))
    assert "speedup_pt2_3" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="probabilities of pt2 differ"):
        export.compared("pt2", lambda images: torch.zeros(len(images), 100), predictor, 1, 1)
