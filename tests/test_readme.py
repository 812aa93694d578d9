"""What the README and the pages print has to be so: Python runs, commands parse, numbers are in the records."""

import dataclasses
import json
import re
import shlex
from ast import literal_eval
from dataclasses import MISSING
from inspect import signature
from math import prod
from pathlib import Path

import pytest

import train
from benchmarks import all_methods, months_later
from cil_func import __main__ as door
from cil_func import config, methods
from cil_func.config import explain
from cil_func.parallel import batch_split

ROOT = Path(train.__file__).parent


def page(folder: str) -> str:
    """Returns the text of README.md in a folder of the repository."""
    return (ROOT / folder / "README.md").read_text(encoding="utf-8")


README, METHODS, RESULTS = page("."), page("cil_func/methods"), page("benchmarks")
BESIDE_CODE = sorted(
    str(path.relative_to(ROOT))
    for room in ("cil_func", "benchmarks")
    for path in (ROOT / room).rglob("*.md")
    if path.parent.name not in ("pages", "results")  # of the tutorial; records
)
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *BESIDE_CODE)}
MOST_LINES = 120  # of the README: two screens


def figures_of(record: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{record}-cpu.json").read_text())["figures"]


def test_the_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", page("cil_func"), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["head"]["weight"].shape == (60, 64) and len(set(names["rows"].tolist())) == 20


def test_the_method_of_ones_own_is_the_file_that_is_tested():
    (code,) = re.findall(r"```python\n(.*?)```", METHODS, re.DOTALL)
    text = re.sub(r'    """.*?"""\n\n', "", (ROOT / "tests/own/adjusted_replay.py").read_text(), flags=re.DOTALL)
    assert text.endswith(code)


def test_the_table_of_methods_names_the_options_of_each():
    """`make` of a method takes the table [method] as `options`, and its own options as keywords."""
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([^|]*) \| [^|]* \|$", METHODS, re.MULTILINE)
    listed = {name: re.findall(r"`(\w+)`", options) for name, options in rows if name in methods.TABLE}
    assert listed == {name: [*signature(make).parameters][1:] for name, make in methods.TABLE.items()}


def test_the_fields_of_a_method_are_those_of_the_record():
    """Those that are called required have no default; the shown ones of a loss's arguments exist."""
    table = METHODS.partition("| field | default |")[2].partition("\n\n")[0]
    rows = [row.split(" | ")[:2] for row in table.splitlines()[2:]]
    told = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {field.name: field.default is MISSING for field in dataclasses.fields(methods.Method)}
    assert len(told) >= 15 and told.keys() <= fields.keys()
    required = {name for name, default in told.items() if default == "required"}
    assert required == {name for name, bare in fields.items() if bare}
    records = {"student": methods.Outputs, "targets": methods.Targets, "classes": methods.Classes}
    shown = re.findall(r"`(student|targets|classes)\.(\w+)`", METHODS)
    assert len(shown) >= 10 and all(hasattr(records[record], name) for record, name in shown)


def test_all_presets_are_listed():
    table = page("cil_func/config").partition("## Presets")[2].partition("## All keys")[0]
    firsts = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("|")]
    listed = re.findall(r"`([\w-]+)\.toml`", "".join(firsts))
    assert sorted(listed) == config.presets()


def test_the_table_of_fields_names_each_with_its_default():
    """One row may name two fields."""
    table = METHODS.partition("### The fields of the record")[2].partition("\n\nWhat a loss")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", table, re.MULTILINE)
    listed = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {each.name: each.default for each in dataclasses.fields(methods.Method)}
    assert set(listed) == set(fields)
    quoted = {name: literal_eval(text[1:-1]) for name, text in listed.items() if re.fullmatch("`[^`]+`", text)}
    assert len(quoted) > 10 and quoted == {name: fields[name] for name in quoted}


def test_the_recipes_called_wa_are_those_of_the_chapter():
    table = METHODS.partition("## Five recipes called WA")[2].partition("| recipe |")[2].partition("\n\n")[0]
    assert table.count("\n| ") == 6  # the rule below the titles, and five rows
    assert table in (ROOT / "cil_func/tutorial/pages/chapter_8_results.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert README.count("\n") <= MOST_LINES


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file(name):
    """Links in words, pictures too; a part behind # is that of a heading."""
    for target, _, part in re.findall(r"\]\((?!http)([^)#]*)(#?)([^)]*)\)", PAGES[name]):
        path = (ROOT / name).parent / target
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if part else []
        assert not part or part in [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]


def test_every_page_is_linked_from_the_readme():
    assert set(BESIDE_CODE) <= set(re.findall(r"\]\((\S+\.md)\)", README))


def commands(start: str) -> list[str]:
    """Returns what follows `start` in the commands of all pages: lines of blocks, and code in table cells."""
    line = rf"^(?:torchrun(?: --\S+)* |(?:.* && )?(?:\.venv/bin/)?python ){start}\b(.*?)(?:  #.*| +#.*)?$"
    cell = rf"`(?:torchrun(?: --\S+)* |python ){start}\b([^`]*)` \|$"
    return [words for text in PAGES.values() for form in (line, cell) for words in re.findall(form, text, re.MULTILINE)]


def test_every_train_command_is_understood():
    found = commands(r"train\.py")
    assert len(found) >= 20
    for command in found:
        options = train.parse(shlex.split(command.partition(" && ")[0]))
        if not options.extend:  # then the configuration is that of a run, which isn't there
            config.load(options.config or "digits", options.set)


def test_every_train_command_of_several_processes_can_be_shared_by_them():
    presets = [path.read_text(encoding="utf-8") for path in (ROOT / "cil_func/config/presets").glob("*.toml")]
    text = "\n".join([*PAGES.values(), *presets]).replace("\\\n", " ")
    shared = 0
    for flags, words in re.findall(r"torchrun ([^`\n]*?)train\.py([^`\n#()]*)", text):
        counts = [re.search(rf"--{flag}=(\S+)", flags) for flag in ("nproc_per_node", "nnodes")]
        size = prod((int(count[1]) if count[1].isdecimal() else 2) if count else 1 for count in counts)
        options = train.parse(shlex.split(words.replace("$", "")))
        loaded = config.load(options.config or "digits", options.set)
        shared += size > 1
        for phase in (0, 1):
            numbers = loaded.optim_of_phase(phase)
            batch_split.refuse_single_group(
                size, batch_size=numbers.batch_size, norm_batch=numbers.norm_batch, pads=True, table="optim"
            )
    assert shared >= 8


def test_every_other_command_is_there():
    named = {words.split()[0] for words in commands("-m cil_func") if words.strip()}
    assert named and named <= set(door.COMMANDS)


def test_the_table_of_keys_is_the_one_that_the_schema_gives():
    """`python -m cil_func schema --markdown` prints it; paste that there when a key has changed."""
    assert page("cil_func/config").endswith(f"## All keys\n\n{explain.readme_table()}")


@pytest.mark.parametrize("name", all_methods.STUDIES)
def test_accuracies_of_all_methods_are_those_of_the_record(name):
    """`python -m benchmarks.all_methods NAME` prints them."""
    assert all_methods.markdown(figures_of(name)) in RESULTS


def test_what_later_classes_cost_is_that_of_the_records():
    for path in (ROOT / "benchmarks/results").glob("months_later-*.json"):
        assert months_later.markdown(json.loads(path.read_text())["figures"]) in RESULTS, path.name


def test_accuracies_on_cifar_are_those_of_the_records():
    runs = {"WA, sum": "wa-sum-10", "WA, convex": "wa-convex-5", "iCaRL": "icarl-5", "replay, 5": "replay-5"}
    for start, name in runs.items():
        (cells,) = re.findall(rf"^\| {start}[^|]*\|(.*)\|$", RESULTS, re.MULTILINE)
        figures = figures_of(f"cifar100-b50-{name}")
        top1 = [float(value) for value in cells.split("|")[0].split(",")]
        assert top1 == [round(figures[f"top1_phase_{phase}"], 1) for phase in range(6)]


def test_accuracies_of_the_method_of_ones_own_are_those_of_the_records():
    """Last accuracy and average, with the adjustment and without."""
    (text,) = re.findall(r"On digits, 5 epochs a phase.*?\n\n", METHODS, re.DOTALL)
    records = [figures_of(f"digits-adjusted-replay-{tau}") for tau in (1, 0)]
    expected = [figures[key] for figures in records for key in ("last_accuracy", "average_incremental_accuracy")]
    assert [float(value) for value in re.findall(r"\d+\.\d(?= )", text)] == [round(value, 1) for value in expected]


def test_accuracies_on_a_frozen_backbone_are_those_of_the_records():
    rows = re.findall(r"^\| (\w+), (ImageNet|half, 10? phases?) \|(.*) \|$", METHODS, re.MULTILINE)
    assert len(rows) == 11
    for name, which, cells in rows:
        phases = which.removeprefix("half, ").replace(" ", "-")
        figures = figures_of(f"frozen-imagenet-{name}" if which == "ImageNet" else f"frozen-half-{name}-{phases}")
        keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
        expected = [*(figures[key] and round(figures[key], 1) for key in keys), round(figures["seconds"])]
        assert [None if cell.strip() == "-" else float(cell) for cell in cells.split("|")] == expected


def test_speeds_are_those_of_the_records():
    """Each row names the module and the figure that it quotes."""
    row = r"^\| [^|]+ \| `(\S+)(?: --epochs (\d+) --data FOLDER)?` \| `(\w+)` \| ([\d.]+) \|$"
    rows = re.findall(row, RESULTS, re.MULTILINE)
    assert len(rows) >= 9
    for module, epochs, figure, value in rows:
        name = f"{module}-epochs{epochs}" if epochs else module
        assert value == f"{figures_of(name)[figure]:.2f}", figure


def test_counts_of_reliability_are_those_of_the_record():
    sentence = r"to real processes and files, ([\d,]+) times with (\d+) broken promises"
    ((tried, broken),) = re.findall(sentence, page("cil_func/runs"))
    figures = figures_of("reliability")
    for name, told in (("tried", tried), ("broken", broken)):
        assert int(told.replace(",", "")) == sum(value for key, value in figures.items() if key.startswith(name))


def test_accuracies_at_10_epochs_are_those_of_the_records():
    """Of each seed, and that the means are within a point, as the README says."""
    records = [figures_of(f"run-epochs10{seed}") for seed in ("", "-seed1", "-seed2")]
    means = {}
    for name, side in (("conventional, float32", "conventional"), ("ours, bfloat16", "cold")):
        (cells,) = re.findall(rf"^\| {name} \|(.*)\|$", RESULTS, re.MULTILINE)
        found = [[figures[f"{what}_{side}"] for what in ("average", "last")] for figures in records]
        means[side] = [sum(values) / len(records) for values in zip(*found, strict=True)]
        expected = [[round(value, 1) for value in pair] for pair in (*found, means[side])]
        assert [[float(value) for value in cell.split(",")] for cell in cells.split("|")] == expected
    assert all(abs(ours - theirs) < 1 for ours, theirs in zip(*means.values(), strict=True))
    (text,) = re.findall(r"Ours with an empty compile cache.*", RESULTS)
    assert re.findall(r"\d\.\d+", text) == [f"{figures['speedup_cold']:.2f}" for figures in records]


def test_accuracies_by_precision_are_those_of_the_records():
    (text,) = re.findall(r"What it costs is less.*", RESULTS, re.DOTALL)
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
