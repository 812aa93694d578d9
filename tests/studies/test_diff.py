"""The command diff: which keys differ, what they mean, whether they have an effect, and what is known to be worth."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w

from cil_func import config
from cil_func.__main__ import main
from cil_func.config import effects, meanings
from cil_func.report import published
from cil_func.studies import differences

ROOT = Path(__file__).parents[2]
WORTH = tomllib.loads((ROOT / "cil_func/studies/worth.toml").read_text(encoding="utf-8"))["worth"]


def diff(capsys, *words):
    """(exit status, stdout, stderr) of the command."""
    status = main(["diff", *map(str, words)])
    return (status, *capsys.readouterr())


def written(path, tables):
    path.write_text(tomli_w.dumps(tables))
    return path


def test_exactly_the_keys_that_differ(capsys, tmp_path):
    a = written(tmp_path / "a.toml", {"optim": {"epochs": 3}, "memory": {"size": 50}})
    b = written(tmp_path / "b.toml", {"optim": {"epochs": 4, "first_phase": {"epochs": 9}}, "memory": {"size": 50}})
    status, out, err = diff(capsys, a, b, "--json")
    found = json.loads(out)["differences"]
    assert (status, err) == (0, "")
    assert [(each["key"], each["a"], each["b"]) for each in found] == [
        ("optim.epochs", 3, 4), ("optim.first_phase.epochs", None, 9),
    ]  # fmt: skip
    assert {each["meaning"] for each in found} == {meanings.of_keys()["optim.epochs"]}
    _, out, _ = diff(capsys, a, b)
    assert "  optim.epochs: 3 -> 4\n    Number of passes over the phase's training images." in out
    assert "  optim.first_phase.epochs: as in [optim] -> 9" in out


def test_presets_with_what_is_known(capsys):
    status, out, _ = diff(capsys, "cifar", "cifar-survey.toml", "--json")
    found = {each["key"]: each for each in json.loads(out)["differences"]}
    augment = found["augment.auto_augment"]
    assert status == 0 and augment["b"] == "" and augment["a"].startswith("rand-")
    assert "about 9 points to FOSTER" in augment["worth"][0]["text"]
    assert "https://github.com/LAMDA-CL/PyCIL/issues/19" in augment["worth"][0]["source"]
    text = diff(capsys, "cifar", "cifar-survey")[1]
    assert "    Worth: AutoAugment's CIFAR-10 policy" in text and max(map(len, text.splitlines())) <= 120


def test_nothing_differs(capsys):
    status, out, _ = diff(capsys, "digits", "digits.toml")
    assert status == 0 and out == "A  digits\nB  digits.toml\n\nno key that has an effect differs\n"


def test_keys_without_effect_are_said_to_be_so(capsys, tmp_path):
    a = written(tmp_path / "a.toml", {"method": {"name": "finetune"}, "memory": {"size": 10}})
    b = written(tmp_path / "b.toml", {"method": {"name": "finetune"}, "memory": {"size": 20}})
    c = written(tmp_path / "c.toml", {"method": {"name": "wa"}, "memory": {"size": 20}})
    _, out, _ = diff(capsys, a, b)
    assert out.endswith(
        "no key that has an effect differs\n\n"
        "These differ too, and have no effect in either:\n  memory.size: 10 -> 20\n"
    )
    assert json.loads(diff(capsys, a, b, "--json")[1])["differences"][0]["worth"] == []
    assert "  memory.size: 10 -> 20\n" in diff(capsys, a, c)[1]
    assert "    It has an effect in B alone.\n" in diff(capsys, a, c)[1]


def test_a_run_and_a_preset(capsys, tmp_path):
    """A run directory's config.toml, and its results where that is gone."""
    changed = config.load("digits", ["optim.epochs=7"])
    tables = config.to_dict(changed)
    for name, epochs, average, images in (("one", 7, 90.0, "x"), ("two", 8, None, "y")):
        (tmp_path / name).mkdir()
        tables["optim"]["epochs"] = epochs
        results = {"config": tables, "average_incremental_accuracy": average, "data_fingerprint": images}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    (tmp_path / "one/config.toml").write_text(config.to_toml(changed))
    found = json.loads(diff(capsys, tmp_path / "one", "digits", "--json")[1])
    assert [each["key"] for each in found["differences"]] == ["optim.epochs"] and found["measured"] == {}
    assert (found["a"]["is"], found["b"]["is"], found["same_images"]) == ("run", "configuration", None)
    found = json.loads(diff(capsys, tmp_path / "one", tmp_path / "two", "--json")[1])
    assert [(each["a"], each["b"]) for each in found["differences"]] == [(7, 8)]
    assert found["measured"]["average_incremental_accuracy"] == [90.0, None] and found["same_images"] is False
    text = diff(capsys, tmp_path / "one", tmp_path / "two")[1]
    assert "measured (percent, A and B), on other images\n" in text
    assert re.search(r"average_incremental_accuracy +90\.0 +-\n", text)
    results |= {"num_classes": 10, "phases": [{"classes_seen": 2}, {"classes_seen": 4}]}
    (tmp_path / "two/results.json").write_text(json.dumps(results))
    text = diff(capsys, tmp_path / "one", tmp_path / "two")[1]
    assert "measured (percent, A and B), on other images, B after 2 phases, 4 of 10 classes\n" in text


@pytest.mark.parametrize(
    "text",
    ["[]", '"x"', "null", "1", '{"phases": [1]}', '{"phases": [null]}', '{"phases": {"a": 1}}',
     '{"phases": [{"classes_seen": "2"}]}', '{"num_classes": "10"}', '{"last_accuracy": "90.0"}',
     '{"forgetting": [1]}', '{"config": []}'],
)  # fmt: skip
@pytest.mark.parametrize("with_config", [True, False])
def test_results_that_are_something_else_are_one_line(capsys, tmp_path, text, with_config):
    """In the place of one value of results that can be used."""
    tables = config.to_dict(config.load("digits"))
    good = {"config": tables, "num_classes": 10, "phases": [{"classes_seen": 2}], "last_accuracy": 90.0}
    broken = json.loads(text)
    for name, results in (("a", good), ("b", good | broken if isinstance(broken, dict) else broken)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        if with_config:
            (tmp_path / name / "config.toml").write_text(config.to_toml(config.load("digits")))
    assert diff(capsys, tmp_path / "a", tmp_path / "a")[0] == 0
    status, out, err = diff(capsys, tmp_path / "a", tmp_path / "b")
    assert (status, out, err.count("\n")) == (2, "", 1) and f"{tmp_path / 'b'}: results.json can't be used (" in err


def test_options_are_keys_too(capsys, tmp_path):
    a = written(tmp_path / "a.toml", {"method": {"name": "ewc", "options": {"strength": 10.0}}})
    b = written(tmp_path / "b.toml", {"method": {"name": "ewc"}})
    assert "  method.options.strength: 10.0 -> not set\n" in diff(capsys, a, b)[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cifar", "cifra"], 'diff: "cifra": no such file, and no such name; there are cifar, '),
        (["cifar"], "diff: the following arguments are required: B"),
        (["EMPTY", "cifar"], ": a folder; name a TOML file in it"),
        (["BROKEN", "cifar"], "results.json can't be used ("),
        (["WRONG", "cifar"], "optim.epoch: unknown key; did you mean optim.epochs?"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, words, line):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/results.json").write_text("{")
    places = {"EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken"}
    places["WRONG"] = written(tmp_path / "wrong.toml", {"optim": {"epoch": 3}})
    status, out, err = diff(capsys, *(places.get(word, word) for word in words))
    assert (status, out, err.count("\n")) == (2, "", 1) and line in err


# what is known


def test_an_entry_holds_for_the_values_that_it_names():
    known = differences.known_worth
    assert known("memory.fixed_per_class", 0, 20) and known("memory.fixed_per_class", 20, 0)
    assert known("memory.fixed_per_class", 10, 20) == []  # the same protocol
    assert known("optim.schedule", "cosine", "milestones") and known("optim.schedule", "cosine", "constant") == []
    assert known("optim.momentum", 0.8, 0.9) == []  # nothing is known
    (methods,) = known("method.name", "wa", "icarl")
    assert methods["text"].endswith(": wa ~67.0 / ~52.2, icarl 64.2 / 49.4")
    assert known("method.name", "wa", "own.py:make") == []


@pytest.mark.parametrize(
    ("key", "protocols"),
    [
        ("data.initial_increment", ["B0 inc 10", "B0 inc 20", "B50 inc 10"]),
        ("data.increment", ["B0 inc 5", "B0 inc 10", "B0 inc 20"]),
        ("model.backbone", ["B0 inc 10"]),
    ],
)
def test_published_numbers_are_those_of_the_rows(key, protocols):
    (entry,) = (each for each in WORTH if each["key"] == key)
    quoted = re.findall(r"\d+\.\d / \d+\.\d", " ".join(entry["text"].split()))
    rows = [published.of_method(protocol, "wa") for protocol in protocols]
    assert quoted[: len(rows)] == [f"{row.average:.1f} / {row.last:.1f}" for row in rows]


@pytest.mark.parametrize("entry", WORTH, ids=lambda entry: entry["key"])
def test_every_entry_is_of_a_key_and_has_sources(entry):
    """A record that an entry names exists."""
    assert entry["key"] in effects.TABLE and entry["source"]
    assert ("text" in entry) != ("protocol" in entry)
    for source in entry["source"]:
        record = source.startswith("benchmarks/") and (ROOT / source).is_file()
        assert record or re.fullmatch(r"arXiv:\d{4}\.\d{5}|https://\S+", source), source


@pytest.mark.parametrize(
    ("key", "records"),
    [
        ("method.kd_combination", ["cifar100-b50-wa-convex-5-cpu", "cifar100-b50-wa-sum-5-float32-cpu"]),
        ("run.precision", ["cifar100-b50-wa-sum-5-float32-cpu", "cifar100-b50-wa-sum-5-bfloat16-cpu"]),
    ],
)
def test_the_figures_of_our_own_runs_are_those_of_their_records(key, records):
    (entry,) = (each for each in WORTH if each["key"] == key)
    for name in records:
        figures = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["figures"]
        pair = f"{figures['average_incremental_accuracy']:.1f} / {figures['last_accuracy']:.1f}"
        assert pair in " ".join(entry["text"].split())
