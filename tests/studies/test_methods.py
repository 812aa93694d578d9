"""The command methods: bytes by arithmetic, published and own numbers, and the page that shows its table."""

import json
from pathlib import Path

import pytest

from cil_func import config, methods
from cil_func.__main__ import main
from cil_func.studies import methods as command
from cil_func.studies import numbers_by_method

PAGE = (Path(command.__file__).with_suffix(".md")).read_text(encoding="utf-8")
RESNET32, IMAGE = 463_504, 3 * 32 * 32  # parameters, of which the survey has the number; bytes


@pytest.fixture(scope="module")
def found():
    return {row.name: row for row in command.rows(config.load("cifar-b0-10"), folder=numbers_by_method.FOLDER)}


def test_the_page_has_the_commands_table(found):
    """`python -m cil_func methods --markdown` prints it; paste that there when a method has changed."""
    assert PAGE.endswith(f"\n\n{command.markdown(list(found.values()))}\n")


def test_all_methods_have_a_row_that_says_what_they_are(found):
    assert list(found) == list(methods.TABLE)
    for name, row in found.items():
        assert row.does.endswith((".", ":")) and len(row.does) > 30, name


def test_bytes_are_those_of_images_and_numbers(found):
    """2000 exemplars; a linear classifier on 64 features, on 640 for DER's ten backbones."""
    images, head = 2000 * IMAGE, 64 * 100 + 100
    one = 4 * (RESNET32 + head)
    assert found["replay"].kept == {"exemplars": images, "model": one, "remembered": 0, "total": images + one}
    assert found["finetune"].kept["total"] == found["joint"].kept["total"] == one
    assert found["ewc"].kept["remembered"] == 2 * one  # importances and anchors
    heads = 640 * 100 + 100 + 64 * 101 + 101  # and the auxiliary one
    assert found["der"].kept["model"] == 4 * (10 * RESNET32 + heads)
    assert found["memo"].kept["model"] == 4 * (RESNET32 + 9 * 351_488 + heads)  # nine more of the last stage
    assert found["foster"].kept["model"] == 4 * (RESNET32 + 2 * 64 * 100 + 100 + 64 * 101 + 101)
    more = 2 * (64 * 512 + 512 + 512 * 128 + 128) + 65 * 64 + 5 * 64**2 + 4 * 64 + 65 * 100
    assert found["tagfex"].kept["model"] == found["der"].kept["model"] + 4 * (RESNET32 + more)
    assert found["bic"].kept["model"] == one + 4 * 2 * 10  # two numbers a phase
    assert found["lucir"].kept["model"] == 4 * (RESNET32 + 64 * 100 + 1)
    assert found["coil"].kept["model"] == found["lucir"].kept["model"] + 4 * (100 * 100 + 64 * 100)  # plan and rows


def test_what_is_said_in_words(found):
    assert found["der"].keeps == "exemplars, 10 backbones" and found["joint"].keeps == "all images, the model"
    assert found["memo"].keeps == "exemplars, a backbone with 10 last stages"
    assert found["memo"].needs == "a backbone whose last stage can be added again"
    assert found["foster"].keeps == "exemplars, the model"
    assert found["tagfex"].keeps == "exemplars, 10 backbones and one beside them"
    assert found["tagfex"].needs.endswith(", a backbone that shows its maps, 2 views of each image")
    assert found["foster"].needs == "the last model as teacher, the stage compress"
    assert found["ewc"].keeps.startswith("the model, numbers of 3.8 MB")
    assert found["podnet"].needs == "the last model as teacher, a backbone that shows its maps, the stage balance"
    assert found["lwf"].needs == "the last model as teacher, two classes a phase"
    assert found["wa"].published.startswith("~67.0 / ~52.2, ") and found["lucir"].published is None


def test_our_numbers_are_those_of_the_record_with_the_most_seeds(tmp_path):
    kept = config.to_dict(config.load("digits"))

    def write(name, figures, **conditions):
        record = {"figures": figures, "conditions": {"config": kept, **conditions}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    single = {"average_incremental_accuracy": 99.0, "last_accuracy": 98.0}
    write("several", {"wa_seeds": 3, "wa_average": 92.94, "wa_last": 83.06})
    write("one", single, method="wa")
    write("another", single, method="icarl")
    kept = kept | {"data": kept["data"] | {"increment": 5}}
    write("phases", single, method="replay")
    (tmp_path / "broken.json").write_text("{")
    ours = numbers_by_method.of(tmp_path, config.load("digits"), [2] * 5)
    assert ours == {"wa": "92.9 / 83.1, several, mean of 3 seeds", "icarl": "99.0 / 98.0, another"}
    assert numbers_by_method.of(tmp_path / "nowhere", config.load("digits"), [2] * 5) == {}


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("data", "tests_on", "validation"), ("data", "phases", 1), ("data", "subset", "first-100"),
        ("data", "image_size", 16), ("data", "name", "imagenet100"), ("run", "extends", "another"),
        ("conditions", "class_order", list(range(20))), ("runs", "top1", [90.0, 80.0]),
    ],
)  # fmt: skip
def test_a_record_of_other_images_or_fewer_phases_is_no_number_of_a_method(tmp_path, table, key, value):
    record = json.loads((numbers_by_method.FOLDER / "wa-b0-10-cpu.json").read_text())
    if table == "runs":  # a record of several methods
        del record["conditions"]["class_order"]
        record |= {"runs": [{"top1": [90.0] * 10}], "figures": {"wa_seeds": 1, "wa_average": 1.0, "wa_last": 1.0}}
    conditions, made = record["conditions"], config.load("cifar-b0-10")
    places = {**conditions["config"], "conditions": conditions, "runs": record.get("runs", [{}])[0]}
    for found in (["wa"], []):
        (tmp_path / "wa.json").write_text(json.dumps(record))
        assert list(numbers_by_method.of(tmp_path, made, [10] * 10)) == found
        places[table][key] = value


def test_methods_that_need_exemplars_have_a_row_without_any(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "TABLE", {name: methods.TABLE[name] for name in ("icarl", "replay")})
    words = ["--config", "digits", "--set", "memory.size=0", "--records", str(tmp_path), "--json"]
    assert main(["methods", *words]) == 0
    assert [row["kept"]["exemplars"] for row in json.loads(capsys.readouterr().out)] == [0, 0]


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "TABLE", {name: methods.TABLE[name] for name in ("wa", "podnet")})
    words = ["methods", "--config", "digits", "--records", str(tmp_path), "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["wa", "podnet"] and not any(row["ours"] for row in rows)
    assert main(words[:-1]) == 0
    assert "wa: WA, weight aligning" in (text := capsys.readouterr().out) and "ours       not recorded" in text
    other = ["methods", "--config", "folder", "--set", "data.path=x", "--set", "model.backbone=timm:test_vit"]
    assert main([*other, "--classes", "6", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["podnet"]["kept"] is None and rows["wa"]["kept"]["exemplars"] == 6 * 20 * IMAGE
    assert main(other) == 2 and "give --classes" in capsys.readouterr().err
    assert main([*other, "--classes", "6", "--set", "data.image_size=0"]) == 2
    assert "the images' size isn't known" in capsys.readouterr().err
