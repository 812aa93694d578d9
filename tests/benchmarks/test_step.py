"""The step benchmark with small sizes: its figures, and the conventional step that it compares with."""

import json

from benchmarks import step

SMALL = (
    "--repeats", "2", "--image-size", "8", "--batch-size", "4", "--backbone", "resnet20", "--set", "run.compile=false",
)  # fmt: skip


def test_figures(tmp_path, capsys):
    path = tmp_path / "step.json"
    assert step.main([*SMALL, "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    figures = written["figures"]
    contenders = ("conventional", "tuned", "float32", "auto", "last")
    expected = {f"seconds_{name}" for name in contenders} | {f"seconds_best_{name}" for name in contenders}
    expected |= {"speedup_float32", "speedup_auto", "speedup_same_precision", "growth_last_phase"}
    assert figures.keys() == expected | {"floor_seconds_auto", "floor_fraction_auto"}
    assert all(value > 0 for value in figures.values())
    assert all(figures[f"seconds_best_{name}"] <= figures[f"seconds_{name}"] for name in contenders)
    assert written["conditions"]["batch_size"] == 4
    assert "speedup_auto" in capsys.readouterr().out


def test_calls_are_interleaved():
    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = step.interleaved(contenders, repeats=4, device=step.torch.device("cpu"), warmup=1)
    rounds = [sorted(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert rounds == [["a", "b", "c"]] * 5 and {len(values) for values in seconds.values()} == {4}
    assert order[:3] * 5 != order  # in another order each round
