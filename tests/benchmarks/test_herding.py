"""The herding benchmark: its figures, and that it measures the right rows."""

import json

import pytest
import torch

from benchmarks import herding


def test_exponent_is_the_slope_at_the_largest_sizes():
    assert herding.exponent([1, 10, 20, 40], [5.0, 10.0, 40.0, 160.0]) == pytest.approx(2.0)


def test_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(herding, "MANY_ROWS", (25, 50, 100))
    monkeypatch.setattr(herding, "COUNTS", (5, 10, 20))
    path = tmp_path / "herding.json"
    assert herding.main(["--repeats", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    expected = {"seconds_rows_25", "seconds_rows_50", "seconds_rows_100", "seconds_count_5", "seconds_count_10"}
    expected |= {"seconds_count_20", "exponent_rows", "exponent_count", "seconds_conventional", "speedup_herding"}
    assert figures.keys() == expected
    assert all(value > 0 for name, value in figures.items() if not name.startswith("exponent"))
    assert "speedup_herding" in capsys.readouterr().out


def test_other_rows_are_no_speedup(monkeypatch):
    monkeypatch.setattr(herding.herding, "herd", lambda features, count, **_: torch.arange(count))
    with pytest.raises(RuntimeError, match="picks other rows"):
        herding.against_conventional(repeats=1)
