"""What the README prints has to be so: its Python runs, its commands parse, its numbers are in the records."""

import json
import re
from inspect import signature
from pathlib import Path

import torch

import train
from cil_func import config, methods
from cil_func.config import explain

ROOT = Path(train.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def figures_of(record: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{record}-cpu.json").read_text())["figures"]


def test_the_python_example_runs():
    _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"features": torch.randn(50, 64, generator=torch.Generator().manual_seed(0))}
    exec(code, names)
    assert names["head"]["weight"].shape == (60, 64) and len(set(names["rows"].tolist())) == 20


def test_the_method_of_ones_own_is_the_file_that_is_tested():
    code, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    text = re.sub(r'    """.*?"""\n\n', "", (ROOT / "tests/own/adjusted_replay.py").read_text(), flags=re.DOTALL)
    assert text.endswith(code)


def test_the_table_of_methods_names_the_options_of_each():
    """`make` of a method takes the table [method] as `options`, and its own options as keywords."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*) \| [^|]* \|$", README, re.MULTILINE)
    listed = {name: re.findall(r"`(\w+)`", options) for name, options in rows if name in methods.TABLE}
    assert listed == {name: [*signature(make).parameters][1:] for name, make in methods.TABLE.items()}


def test_every_train_command_is_understood():
    commands = re.findall(r"^(?:python|torchrun|\.venv/bin/python) train\.py(.*?)(?:#.*)?$", README, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        options = train.parse(command.split())
        if not options.extend:
            config.load(options.config or "digits", options.set)


def test_the_table_of_keys_is_the_one_that_the_schema_gives():
    """`python -m cil_func schema --markdown` prints it; paste that here when a key has changed."""
    assert f"<summary>All keys</summary>\n\n{explain.readme_table()}\n</details>\n" in README


def test_accuracies_are_those_of_the_records():
    """Each row of the two tables of results against the record that it is said to come from."""
    rows = {name: [float(cell) for cell in cells.split("|")] for name, cells in re.findall(
        r"^\| (joint|wa|icarl|replay|lwf|finetune) \|(.*) \|$", README, re.MULTILINE
    )}  # fmt: skip
    assert len(rows) == 6
    for name, (average, last, forgetting, _) in rows.items():
        figures = figures_of(f"digits-{name}")
        found = [figures[key] for key in ("average_incremental_accuracy", "last_accuracy", "forgetting")]
        assert [average, last, forgetting] == [round(value, 1) for value in found]
    runs = {"WA, sum": "wa-sum-10", "WA, convex": "wa-convex-5", "iCaRL": "icarl-5", "replay, 5": "replay-5"}
    for start, name in runs.items():
        (cells,) = re.findall(rf"^\| {start}[^|]*\|(.*)\|$", README, re.MULTILINE)
        figures = figures_of(f"cifar100-b50-{name}")
        top1 = [float(value) for value in cells.split("|")[0].split(",")]
        assert top1 == [round(figures[f"top1_phase_{phase}"], 1) for phase in range(6)]


def test_speeds_are_those_of_the_records():
    """Each row names the module and the figure that it quotes."""
    row = r"^\| [^|]+ \| `(\S+)(?: --epochs (\d+) --data FOLDER)?` \| `(\w+)` \| ([\d.]+) \|$"
    rows = re.findall(row, README, re.MULTILINE)
    assert len(rows) >= 9
    for module, epochs, figure, value in rows:
        name = f"{module}-epochs{epochs}" if epochs else module
        assert value == f"{figures_of(name)[figure]:.2f}", figure


def test_counts_of_reliability_are_those_of_the_record():
    ((tried, broken),) = re.findall(r"to real processes and files, ([\d,]+) times with (\d+) broken promises", README)
    figures = figures_of("reliability")
    for name, told in (("tried", tried), ("broken", broken)):
        assert int(told.replace(",", "")) == sum(value for key, value in figures.items() if key.startswith(name))


def test_accuracies_at_10_epochs_are_those_of_the_records():
    """Of each seed, and that the means are within a point, as the README says."""
    records = [figures_of(f"run-epochs10{seed}") for seed in ("", "-seed1", "-seed2")]
    means = {}
    for name, side in (("conventional, float32", "conventional"), ("ours, bfloat16", "cold")):
        (cells,) = re.findall(rf"^\| {name} \|(.*)\|$", README, re.MULTILINE)
        found = [[figures[f"{what}_{side}"] for what in ("average", "last")] for figures in records]
        means[side] = [sum(values) / len(records) for values in zip(*found, strict=True)]
        expected = [[round(value, 1) for value in pair] for pair in (*found, means[side])]
        assert [[float(value) for value in cell.split(",")] for cell in cells.split("|")] == expected
    assert all(abs(ours - theirs) < 1 for ours, theirs in zip(*means.values(), strict=True))
    (text,) = re.findall(r"Ours with an empty compile cache.*", README)
    assert re.findall(r"\d\.\d+", text) == [f"{figures['speedup_cold']:.2f}" for figures in records]


def test_accuracies_by_precision_are_those_of_the_records():
    (text,) = re.findall(r"What it costs is less.*?\n\n", README, re.DOTALL)
    told = [float(value) for value in re.findall(r"\d\d\.\d", text)]
    precisions, average = ("bfloat16", "float32"), "average_incremental_accuracy"
    cifar = [figures_of(f"cifar100-b50-wa-sum-5-{precision}") for precision in precisions]
    seeds = {
        "bfloat16": [f"-bfloat16-seed{seed}" for seed in range(3)],
        "float32": ["", *(f"-float32-seed{seed}" for seed in (1, 2))],
    }
    digits = [sum(figures_of(f"digits-wa{seed}")[average] for seed in seeds[name]) / 3 for name in precisions]
    expected = [run[key] for key in (average, "last_accuracy") for run in cifar] + digits
    assert told == [round(value, 1) for value in expected]
