"""The configuration: what is refused and how, what survives a round trip, what the presets hold."""

import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tomli_w
from annotated_types import Interval
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from benchmarks.reliability_helpers import bad_configurations
from cil_func import config
from cil_func.config import effects
from cil_func.errors import ConfigError

ROOT = Path(__file__).parents[2]
METHODS = ", ".join(f'"{name}"' for name in [*effects.METHODS][:12])
METHODS += f" and {len(effects.METHODS) - 12} more (see train.py --explain)"
PRESETS = config.presets()
OF_FILES = ("folder", "cub200", "imagenet100", "imagenet100-b0-10", "imagenet1000")
NEEDS = {name: ["data.path=somewhere"] for name in OF_FILES}  # what a preset can't know


def refused(name, overrides=()):
    """The message of the ConfigError that loading must raise: one line, printable, short enough to read."""
    with pytest.raises(ConfigError) as caught:
        config.load(str(name), overrides)
    message = str(caught.value)
    assert message.isprintable() and 0 < len(message) < 400, repr(message)
    return message


def written(folder, tables):
    """A TOML file that holds these tables."""
    path = folder / "given.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def nested(key, value):
    """{"a": {"b": value}} for "a.b"."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


# --- Every field, by walking the JSON schema: a new field is covered without a line here.

SCHEMA = config.Config.model_json_schema()


def walk(node=SCHEMA, prefix=""):
    """Yields (dotted key, [JSON schemas of its alternatives]) for every key that is no table."""
    for name, field in node["properties"].items():
        reference = field.get("$ref") or next(iter(field.get("allOf", [{}]))).get("$ref")
        if reference:
            yield from walk(SCHEMA["$defs"][reference.rsplit("/", 1)[1]], f"{prefix}{name}.")
        else:
            yield prefix + name, [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]


FIELDS = dict(walk())
NUMBERS = [key for key, kinds in FIELDS.items() if {"integer", "number"} & {kind["type"] for kind in kinds}]

OPTIONS = ["method.options", "data.options", "model.options", "optim.options", "optim.first_phase.options"]
OWN = ["method.name", "data.name", "optim.name", "optim.first_phase.name"]

# For text, lists, numbers with a gap and free tables, what the JSON schema cannot say.
WRONG = {
    "data.path": ["a\0b"],
    "data.packed": ["a\0b"],
    "data.subset": ["a\0b"],
    "run.extends": ["a\0b"],
    "model.weights": ["a\0b"],
    "model.freeze": ["backbone", [1], ["stem", "stem"]],
    **{f"{table}.rate_factors": ["stem", ["stem"], [["stem"]], [["stem", 0]], [["stem", math.inf]], [[1, "stem"]]]
       for table in ("optim", "optim.first_phase")},
    "data.image_size": [1, 7],
    "optim.norm_batch": [1],
    "optim.first_phase.norm_batch": [1],
    "data.increment": [[], [0], [10, 0], [1.5], ["a"], 0, "five"],
    "data.class_order": ["cannonical", [], [0, 0], ["a", "a"], [0, "a"], [-1], [0.5], [True]],
    "run.loggers": ["wandb", [""], ["tensorbord"], ["wandb", "wandb"], [1]],
    "data.background": [[255], [0, 0, 256], [0, 0, -1], [0.5, 0.5, 0.5], ["white"] * 3],
    "data.mean": [[0.5], [0.5, 0.5, 1.1], [0.5, 0.5, -0.1], ["a", "b", "c"], [math.nan, 0.5, 0.5]],
    "data.std": [[0.5, 0.5], [0.0, 0.5, 0.5], [0.5, 0.5, 1.1], [True, True, True], [0.5, math.inf, 0.5]],
    "augment.auto_augment": ["augmix-m3", "original", "v0", "3a", "rand-", "rand9", "Rand-m9", "rand-x1",
                             "rand-w0", "rand-m", "rand-m9 ", "rand-m9-m8", "rand-mstdinf", "rand-n0",
                             "rand-p2", "rand-p05", "rand-inc2", "rand-tnone"],
    "model.backbone": ["resnet18", "resnet200", "resnet", "timm:", "timm:a.b", "resnet20\n", "", "xtimm"],
    **{key: ["my.py", "a:", ":b", "a b:c", "a:b:c", "C:/x.py", "timm:resnet18", "a:b\n"] for key in OWN},
    **{key: [{"a b": 1}, {"": 1}, {"a": math.nan}, {"a": [math.inf]}, {"a": {"b": datetime.date.today()}}, {"a": 2**63}]
       for key in OPTIONS},
    "optim.milestones": [[3, 2], [2, 2], [0], [1.5], ["a"]],
    "optim.first_phase.milestones": [[3, 2], [2, 2], [0], [1.5], ["a"]],
}  # fmt: skip


BAD = bad_configurations.configurations()


@pytest.mark.parametrize("key", sorted({case.key for case in BAD}))
def test_every_mistake_of_a_key_is_refused_by_name(key, tmp_path):
    for case in BAD:
        if case.key == key:
            flag, given = case.flags(tmp_path)
            message = refused(given) if flag == "--config" else refused("cifar", [given])
            assert bad_configurations.fault(2, f"train.py: {message}", expected=2, says=case.says) == "", case.text
            assert message.removeprefix("--set ").startswith(case.says[0]), (case.text, message)


@pytest.mark.parametrize("key", FIELDS)
def test_no_mistake_of_a_key_was_forgotten(key):
    """Against the JSON schema, which pydantic reads off the annotations by itself."""
    assert set(bad_configurations.TOML) == {"string", "integer", "float", "boolean", "datetime", "array", "table"}
    kinds, made = FIELDS[key], {case.kind for case in BAD if case.key == key}
    words = {"number": "float", "object": "table"}
    takes = {words.get(kind["type"], kind["type"]) for kind in kinds}
    takes |= {"integer"} if "float" in takes else set()
    wanted = {f"type {name}" for name in bad_configurations.TOML if name not in takes} | {"misspelt"}
    wanted |= {"not finite"} if takes & {"integer", "float"} else set()
    wanted |= {"no such word"} if any("enum" in kind or "const" in kind for kind in kinds) else set()
    wanted |= {"out of range"} if any("imum" in word for kind in kinds for word in kind) else set()
    assert wanted == {kind for kind in made if not kind.startswith("in a list")}
    if any(kind["type"] == "array" for kind in kinds):
        inner = {"array"} - {kind["items"]["type"] for kind in kinds if "type" in kind.get("items", {})}
        assert made >= {f"in a list, type {each}" for each in ("boolean", "table", *inner)}


def test_the_bounds_themselves_are_tried():
    lines = {case.text for case in BAD}
    assert lines >= {"run.threads = -1", "run.threads = 1025", "optim.epochs = 0", "optim.batch_size = 1"}
    assert lines >= {"optim.learning_rate = 0", "method.label_smoothing = 1", "augment.erasing = -5e-324"}
    assert lines >= {"augment.erasing = 1.0000000000000002", "data.image_size = 7", "data.image_size = 1025"}
    assert lines >= {"data.mean = [nan, nan, nan]", "optim.milestones = [0, 0, 0]", 'method.kd_weight = "-"'}


def test_a_new_key_is_covered_by_itself():
    class Table(BaseModel):
        new_count: Annotated[int, Interval(ge=1, le=3)] = 1
        ratio: Literal["auto"] | Annotated[float, Interval(gt=0)] = "auto"

    class Schema(BaseModel):
        new: Table = Table()

    cases = bad_configurations.configurations(schema=Schema)
    numbers = {case.text.split(" = ")[1] for case in cases if case.key == "new.new_count"}
    assert numbers >= {"0", "4", "1.5", '"3"', "true", "07:32:00", "[]", "{}", "nan", "inf", "-inf"}
    assert not numbers & {"2", "3"}
    assert {case.text for case in cases if case.kind == "out of range" and case.key == "new.ratio"} == {
        "new.ratio = 0", "new.ratio = -1"}  # fmt: skip
    slips = {case.text for case in cases if case.kind == "misspelt"}
    assert slips >= {"new.new-count = 1", "new.NEW_COUNT = 1", "new.RATIO = 1", "NEW = { }"} and len(slips) >= 11


@pytest.mark.parametrize("key", [key for key in FIELDS if key in WRONG])
def test_what_annotations_cannot_tell_is_refused_too(key, tmp_path):
    for value in WRONG[key]:
        message = refused(written(tmp_path, nested(key, value)))
        assert message.startswith((f"{key}: ", f"{key}.")) and " is not allowed; " in message, (value, message)


def test_nothing_open_ended_is_without_an_example_of_what_is_wrong():
    open_ended = [key for key, kinds in FIELDS.items() if any(
        kind["type"] in ("array", "string", "object") and not {"enum", "const"} & set(kind) for kind in kinds
    )]  # fmt: skip
    assert len(open_ended) > 6
    assert not set(open_ended) - set(WRONG), f"put examples in WRONG for {set(open_ended) - set(WRONG)}"


def test_the_order_of_the_mistakes_comes_from_the_seed():
    assert bad_configurations.configurations() == BAD and bad_configurations.configurations(1) != BAD
    assert {case.in_file for case in BAD[:20]} == {True, False}
    assert len(BAD) > 1500 and {case.key for case in BAD[:900]} >= set(FIELDS)


def test_every_kind_of_field_is_walked():
    assert len(FIELDS) > 40 and len(NUMBERS) > 25
    assert {"run.seed", "method.kd_weight", "optim.first_phase.norm_batch"} < set(NUMBERS)
    first_phase = {key.rpartition(".")[2] for key in FIELDS if key.startswith("optim.first_phase.")}
    assert first_phase == {key.rpartition(".")[2] for key in FIELDS if key.startswith("optim.")}


# --- Messages

MESSAGES = {
    "optim.batch_size=0": "optim.batch_size: 0 is not allowed; an integer in 2..2147483647",
    "optim.epochs=0": "optim.epochs: 0 is not allowed; an integer >= 1",
    "run.threads=2000": "run.threads: 2000 is not allowed; an integer in 0..1024",
    "method.label_smoothing=1": "method.label_smoothing: 1 is not allowed; a number >= 0 and < 1",
    "data.image_size=4": "data.image_size: 4 is not allowed; 0 or an integer in 8..1024",
    "method.kd_weight=-1": 'method.kd_weight: -1 is not allowed; "dynamic" or a number >= 0',
    "run.timeout_seconds=0": "run.timeout_seconds: 0 is not allowed; a number > 0 and <= 86400",
    'run.loggers=["tensorbord"]': 'run.loggers: ["tensorbord"] is not allowed; a list of "tensorboard", "wandb" or '
                                  "both",
    'run.loggers=["wandb", "wandb"]': 'run.loggers: ["wandb", "wandb"] is not allowed; a list of "tensorboard", '
                                      '"wandb" or both',
    "data.on_error=Skip": 'data.on_error: "Skip" is not allowed; one of "stop", "skip"; did you mean "skip"?',
    "method.name=wq": f'method.name: "wq" is not allowed; one of {METHODS} or your own "package.module:function" or '
                      '"path/file.py:function"; did you mean "wa"?',
    "optim.name=adam": 'optim.name: "adam" is not allowed; one of "sgd", "adamw" or your own "package.module:function" '
                       'or "path/file.py:function"; did you mean "adamw"?',
    "method.name=own.py": f'method.name: "own.py" is not allowed; one of {METHODS} or your own '
                          '"package.module:function" or "path/file.py:function"; did you mean "own.py:make"?',
    "data.increment=[]": 'data.increment: [] is not allowed; "auto" or an integer >= 1 or a list of integers >= 1',
    "method.options.x=1979-05-27": "method.options.x: 1979-05-27 is not allowed; a string, true or false, an integer "
                                   "of 64 bits, a finite number, or a list or table of these",
    'method.options={"a b"=1}': 'method.options."a b": 1 is not allowed; an option\'s name has letters, digits and _ '
                                "alone",
    "method.options=3": "method.options: 3 is not allowed; a table of options",
    "run.device=gpu": 'run.device: "gpu" is not allowed; one of "auto", "cpu", "cuda"; did you mean "cuda"?',
    "run.compile=True": 'run.compile: "True" is not allowed; true or false; did you mean true?',
    "optim.learning_rate=.1": 'optim.learning_rate: ".1" is not allowed; a number > 0; did you mean 0.1?',
    'optim.epochs="3"': 'optim.epochs: "3" is not allowed; an integer >= 1; did you mean 3?',
    'optim.epochs="0"': 'optim.epochs: "0" is not allowed; an integer >= 1',
    "data.path=1993": 'data.path: 1993 is not allowed; a path as a string in quotes, without NUL; '
                      'did you mean "1993"?',
    "optim.lr=1": "--set optim.lr: unknown key; did you mean optim.learning_rate?",
    "epochs=1": "--set epochs: unknown table; did you mean optim.epochs?",
    "model.epochs=1": "--set model.epochs: unknown key; did you mean optim.epochs?",
    "epoch=1": "--set epoch: unknown table; did you mean optim.epochs?",
    "augment.backbone=x": "--set augment.backbone: unknown key; did you mean model.backbone?",
    "optm.epoch=1": "--set optm.epoch: unknown key; did you mean optim.epochs?",
    "optim.epochs.x=1": "--set optim.epochs.x: unknown key; did you mean optim.epochs?",
    "memory.zzz=1": "--set memory.zzz: unknown key; [memory] has size, fixed_per_class, selection, mirror_means, "
                    "keep",
    "zzz=1": "--set zzz: unknown table; there are [run], [data], [augment], [model], [memory], [method], "
             "[optim], [checkpoint]",
    "optim={epochs=1}": "--set optim: a whole table; set its keys, each as optim.key=value",
    "optim.epochs": '--set optim.epochs: no "="; write --set optim.epochs=value',
    "=1": '--set "": unknown table; there are [run], [data], [augment], [model], [memory], [method], '
          "[optim], [checkpoint]",
    "data.path=\udcff": '--set data.path: "\\udcff" is not UTF-8',
    "optim.first_phase={epochs=0, foo=1}": "optim.first_phase.epochs: 0 is not allowed; an integer >= 1; "
                                           "and 1 more mistake",
}  # fmt: skip


@pytest.mark.parametrize("override", MESSAGES)
def test_the_whole_line_for_one_mistake(override):
    assert refused("cifar", [override]) == MESSAGES[override]


def test_several_mistakes_are_counted_and_a_union_counts_once():
    given = ["run.seed=-1", "method.kd_weight=true", "data.class_order=1", "optim.epochs=0"]
    line = "run.seed: -1 is not allowed; an integer in 0..2147483647; and 3 more mistakes"
    assert refused("cifar", given) == line


def test_tables_of_the_file_that_are_wrong(tmp_path):
    assert refused(written(tmp_path, {"optm": {"epochs": 1}})) == "optm: unknown table; did you mean [optim]?"
    assert refused(written(tmp_path, {"optim": 3})) == "optim: 3 is not allowed; a table of keys"
    both = "optim: 3 is not allowed; a table of keys"
    assert refused(written(tmp_path, {"optim": 3}), ["optim.epochs=1"]) == both
    quoted = refused(written(tmp_path, {"optim.epochs": 1, "a\nb": 1}))
    assert quoted.startswith('"optim.epochs": unknown table; did you mean [optim]?; and 1 more')


@pytest.mark.parametrize("value", ["a\nb", "\x1b[31mred", "line\u2028end", "x" * 5000, "\x85", ["\n"] * 500])
def test_a_strange_value_stays_on_one_short_line(value, tmp_path):
    for key in ("run.device", "optim.epochs", "data.mean", "model.backbone"):
        assert refused(written(tmp_path, nested(key, value))).startswith(f"{key}: ")


def test_an_integer_that_python_refuses_to_print_is_refused():
    assert "optim.epochs: 0xffff" in refused("cifar", ["optim.epochs=0x" + "f" * 9000])
    assert "optim.learning_rate: 0xffff" in refused("cifar", ["optim.learning_rate=0x" + "f" * 9000])


# --- Combinations

KD = "method.kd_weight: {} with kd_combination = {}; {}"
COMBINATIONS = [
    (["method.kd_weight=2.0"],
     KD.format("2.0", '"convex"', 'a number in 0..1, or "dynamic", or kd_combination = "sum"')),
    (["method.kd_combination=sum"],
     KD.format('"dynamic"', '"sum"', 'a number >= 0, or kd_combination = "convex"')),
    (["method.name=icarl", "memory.size=0"], 'memory.size: 0 with method.name = "icarl"'),
    (["method.name=gem", "memory.size=0"], 'memory.size: 0 with method.name = "gem", which learns from exemplars'),
    (["data.name=cub200", "data.path=x", "data.subset=first-100"],
     'data.subset: "first-100" with data.name = "cub200", which has a list of its own; "", or'),
    (["data.name=image_folder"], 'data.path: missing, with data.name = "image_folder"'),
    (["data.name=imagenet100"], "data.path: missing"),
    (["data.name=imagenet1000"], "data.path: missing"),
    (["data.name=digits", "data.path=images"],
     'data.path: "images" with data.name = "digits", which is in no folder; data.name = "image_folder"'),
    (["data.mean=[]"], "data.mean: [] with data.std = [0.2673, 0.2564, 0.2762]; give both or neither"),
    (["data.std=[]"], "data.std: [] with data.mean = [0.5071, 0.4865, 0.4409]; give both or neither"),
    (["optim.norm_batch=513"], "optim.norm_batch: 513 with batch_size = 512; 0 (the whole batch), or"),
    (["optim.warmup_epochs=170"], "optim.warmup_epochs: 170 with epochs = 170; an integer below epochs"),
    (["optim.schedule=milestones"], 'optim.milestones: [] with schedule = "milestones" and epochs = 170'),
    (["optim.schedule=milestones", "optim.milestones=[60, 170]"],
     'optim.milestones: [60, 170] with schedule = "milestones" and epochs = 170; one or more'),
    (["optim.first_phase.batch_size=64"], "optim.first_phase.norm_batch: 128 with batch_size = 64"),
    (["optim.warmup_epochs=9", "optim.first_phase.epochs=9"],
     "optim.first_phase.warmup_epochs: 9 with epochs = 9; an integer below epochs"),
    (["optim.accumulate=4", "optim.batch_size=100", "optim.norm_batch=32"],
     "optim.batch_size: 100 with norm_batch = 32 and accumulate = 4; a multiple of norm_batch"),
    (["run.recompute=true"], "run.recompute: true with run.compile = true, which keeps all in one graph; run.compile"),
    (["data.options.x=1"], 'data.options.x: unknown option; data.name = "cifar100" takes none'),
    (["model.options.x=1"], 'model.options.x: unknown option; model.backbone = "resnet32" takes none'),
    (["optim.schedule=milestones", "optim.milestones=[60, 100]", "optim.first_phase.epochs=100"],
     "optim.first_phase.milestones: [60, 100] with schedule"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "line"), COMBINATIONS)
def test_values_that_do_not_go_together_are_refused(overrides, line):
    assert refused("cifar", overrides).startswith(line)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.kd_weight=1"],
        ["method.kd_combination=sum", "method.kd_weight=7.5"],
        ["method.name=icarl", "memory.size=0", "memory.fixed_per_class=20"],
        ["method.name=finetune", "memory.size=0"],
        ["method.name=replay", "method.align=true"],  # a method ignores what it doesn't use
        ["data.name=image_folder", "data.path=x"],
        ["data.mean=[]", "data.std=[]"],
        ["optim.norm_batch=128", "model.backbone=timm:resnet18"],
        ["optim.norm_batch=0", "model.backbone=timm:vit_tiny_patch16_224"],
        ["optim.milestones=[600]"],  # cosine ignores them
        ["optim.schedule=milestones", "optim.milestones=[1, 169]"],
        ["optim.epochs=1", "optim.warmup_epochs=0"],
        ["data.class_order=[3, 1, 0]"],
        ["data.increment=[10, 20, 5]"],
        ["optim.accumulate=4", "optim.batch_size=64", "optim.norm_batch=32"],  # two parts, since no norm group is cut
        ["optim.accumulate=4", "optim.batch_size=100", "optim.norm_batch=0"],
        ["optim.batch_size=100", "optim.norm_batch=32"],
        ["method.options.anything=1"],  # only the method knows
        ["data.name=my_data:make", "data.options.x=1", "model.backbone=nets.py:make", "model.options.y=[1, {z=2}]"],
        ["optim.name=adamw", "optim.options.betas=[0.5, 0.9]", "optim.first_phase.name=sgd"],
        ['data.class_order=["dog", "cat"]'],
        ["data.image_size=8", "run.seed=2147483647"],
        ["augment.auto_augment=rand"],
        ["augment.auto_augment=rand-m9-n3-mstd0.5"],
        ["augment.auto_augment=rand-p0.5-mmax30-inc0-tweights"],
        ["augment.auto_augment=rand-p1-t3a"],
        ["augment.auto_augment="],
    ],
)
def test_what_is_allowed_is_not_refused(overrides):
    config.load("cifar", overrides)


def test_the_second_mistake_in_first_phase_is_not_the_first_again():
    assert "more" not in refused("cifar", ["optim.warmup_epochs=170", "optim.first_phase.learning_rate=1"])


# --- Overrides and files


def test_overrides_are_toml_and_a_bare_word_is_a_string():
    given = ["optim.epochs=2", "method.name=finetune", "optim.learning_rate=1", "data.path=a=b c"]
    given += ["data.class_order=[2, 0, 1]", "run.compile=false", "run . seed = 7", "method.kd_weight=1"]
    got = config.load("cifar", given)
    assert (got.optim.epochs, got.method.name, got.data.path) == (2, "finetune", "a=b c")
    assert (got.data.class_order, got.run.compile, got.run.seed) == ((2, 0, 1), False, 7)
    assert isinstance(got.optim.learning_rate, float) and got.optim.learning_rate == 1.0
    assert isinstance(got.method.kd_weight, float) and got.optim.batch_size == 512  # the rest is the file's
    assert config.load("cifar", ["optim.epochs=2", "optim.epochs=3"]).optim.epochs == 3  # the last one holds
    assert config.load("cifar", ["data.path="]).data.path == ""
    assert config.load("cifar", ["data.path= x "]).data.path == "x"
    assert config.load("cifar", ["data.path='x'\nseed = 1"]).data.path == "'x'\nseed = 1"  # not a second key
    assert config.load("cifar", ["data.path=" + "[" * 5000]).data.path == "[" * 5000  # too deep for tomllib


def test_an_option_may_be_set_one_by_one_or_as_a_table():
    got = config.load("cifar", ["method.options={a=1, b=2}", "method.options.depth=5", "method.options.b = [1, 'x']"])
    assert got.method.options.plain() == {"a": 1, "b": [1, "x"], "depth": 5}
    got = config.load("cifar", ["method.options.deep.er=word", "optim.first_phase.name=adamw",
                                "optim.first_phase.options.eps=1e-6"])  # fmt: skip
    assert got.method.options.plain() == {"deep": {"er": "word"}}
    assert got.optim.first_phase.options.plain() == {"eps": 1e-6}
    with pytest.raises(TypeError):
        got.method.options["x"] = 1


def test_a_users_own_file_is_found_beside_the_configuration_and_in_the_working_directory(tmp_path, monkeypatch):
    """What the file says is looked for beside the file first, what the command line says where the command is."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "both.py").write_text("")
    (here / "mine.py").write_text("")
    monkeypatch.chdir(here)
    names = {"method": "both.py:f", "data": "mine.py:f", "optim": "nowhere.py:f"}
    tables = {table: {"name": name} for table, name in names.items()} | {"model": {"backbone": "both.py:net"}}
    tables["optim"] |= {"bias": {"name": "both.py:f"}, "first_phase": {"name": "both.py:f"}}
    path = written(there, tables)
    got = config.load(str(path))
    assert (got.method.name, got.model.backbone) == (f"{there}/both.py:f", f"{there}/both.py:net")
    assert (got.data.name, got.optim.name) == (f"{here}/mine.py:f", "nowhere.py:f")
    assert {got.optim.first_phase.name, got.optim.stages["bias"].name} == {f"{there}/both.py:f"}
    got = config.load(str(path), ["method.name=both.py:g", "optim.bias={name='both.py:g'}", "model.backbone=a.b:c"])
    assert got.method.name == got.optim.stages["bias"].name == f"{here}/both.py:g"
    assert got.model.backbone == "a.b:c" and got.optim.first_phase.name == f"{there}/both.py:f"
    (there / "run.toml").write_text(config.to_toml(got))
    monkeypatch.chdir(tmp_path)
    assert config.load(str(there / "run.toml")) == got


def test_images_that_are_there_are_named_by_an_absolute_path(tmp_path, monkeypatch):
    """So a run finds them from another directory. Other texts, such as those for a function of one's own, stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("mine.txt", "first-100"):
        (tmp_path / name).touch()
    path = written(tmp_path, {"data": {"name": "image_folder", "path": "images", "subset": "first-100"}})
    got = config.load(str(path))
    assert (got.data.path, got.data.subset) == (f"{tmp_path}/images", "first-100")
    got = config.load(str(path), ["data.path=../images", "data.subset=mine.txt"])
    assert (got.data.path, got.data.subset) == ("../images", f"{tmp_path}/mine.txt")
    for text in ("s3://bucket", "~/images", "not there"):
        assert config.load(str(path), [f"data.path={text!r}"]).data.path == text


def test_first_phase_holds_for_phase_0_alone():
    got = config.load("cifar", ["optim.first_phase.epochs=3", "optim.first_phase.norm_batch=0"])
    assert [got.optim_of_phase(phase).epochs for phase in (0, 1, 2)] == [3, 170, 170]
    assert [got.optim_of_phase(phase).norm_batch for phase in (0, 1, 2)] == [0, 128, 128]
    assert got.optim_of_phase(0).learning_rate == 0.1 and got.optim.epochs == 170
    dropped = config.load("cifar-survey", ["optim.first_phase={}", "optim.epochs=150"])
    assert dropped.optim_of_phase(0) == dropped.optim_of_phase(1) and dropped.optim_of_phase(0).epochs == 150


def test_a_configuration_cannot_be_changed():
    got = config.load("digits")
    with pytest.raises(ValueError, match="frozen"):
        got.optim.epochs = 3
    assert hash(got) == hash(config.load("digits"))


def test_a_path_comes_before_a_name_but_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert config.load("digits").data.name == "digits"
    (tmp_path / "cifar.toml").write_text("run.seed = 5")
    assert config.load("cifar.toml").run.seed == 5
    assert config.load("cifar").run.seed == 0


@pytest.mark.parametrize("name", ["cifr", "no/such/file.toml", "", "a\0b", "x" * 5000, "../config", "a\nb"])
def test_an_unknown_name_lists_what_there_is(name):
    message = refused(name)
    assert ", ".join(PRESETS) in message and {"cifar", "digits", "folder"} < {*PRESETS}
    assert message.endswith("did you mean cifar?") == (name == "cifr")


BROKEN = {
    "syntax": (b"[run]\nseed = 1\n\nseed = = 2\n", ", line 4: not TOML: Invalid value (column 8)"),
    "twice": (b"[run]\nseed = 1\nseed = 2\n", ", line 3: not TOML: Cannot overwrite a value"),
    "open": (b'[run]\ndevice = """', ": not TOML: Unterminated string"),
    "latin": ("[data]\npath = 'ü'".encode("latin-1"), ", line 2: not UTF-8"),
    "binary": (bytes(range(256)) * 10, ", line 2: not UTF-8"),
    "digits": (b"[run]\nseed = " + b"9" * 5000, ": not TOML: Exceeds the limit"),
    "deep": (b"[run]\nseed = " + b"[" * 5000, ": nested too deep"),
    "large": (b"#" * (1 << 21), ": more than 1 MiB"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_toml_is_refused_with_its_name_and_line(case, tmp_path):
    content, line = BROKEN[case]
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    assert refused(path).startswith(f'--config "{path}"{line}')


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "a folder; name a TOML file in it" in refused(tmp_path)
    if os.path.exists("/proc/self/mem"):  # reading its start fails even for root
        assert "cannot be read (" in refused("/proc/self/mem")


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path):
    (tmp_path / "w.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 3\r\n")
    assert config.load(str(tmp_path / "w.toml")).run.seed == 3


def test_of_many_choices_a_message_names_a_few():
    """With a value as long as a message repeats, and characters that are written as ten."""
    message = refused("digits", ["method.name=" + "\U00018d09" * 60])
    assert f'is not allowed; one of {METHODS} or your own "package' in message


def test_name_of():
    names = {"cifar": "cifar", "cifar.toml": "cifar", "a/b.c/my.v2.toml": "my.v2", "./x/survey": "survey"}
    assert {name: config.name_of(name) for name in names} == names


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.builds("{}={}".format, st.sampled_from(sorted(FIELDS)), st.text())))
def test_any_text_as_an_override_is_taken_or_refused_on_one_line(override):
    try:
        got = config.load("digits", [override])
    except ConfigError as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 400
    else:
        assert "=" in override and isinstance(got, config.Config)


KEYS = st.one_of(st.sampled_from(sorted(FIELDS)), st.text(max_size=20))
VALUES = st.one_of(
    st.sampled_from([value for values in bad_configurations.TOML.values() for value in values]),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=20),
)
LINES = st.one_of(st.builds("{} = {}".format, KEYS, VALUES), st.builds("[{}]".format, KEYS), st.text(max_size=40))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(LINES, max_size=6).map("\n".join)))
def test_any_file_is_taken_or_refused_on_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        got = config.load(str(path))
    except ConfigError as refusal:
        assert str(refusal).isprintable() and 0 < len(str(refusal)) < 700
    else:
        assert config.from_dict(config.to_dict(got)) == got


# --- Round trip


def a_value(kinds):
    """Any value that the JSON schema of a field allows."""
    return st.one_of([_of_kind(kind) for kind in kinds])


def _of_kind(kind):
    if "enum" in kind or "const" in kind:
        return st.sampled_from(kind.get("enum", [kind.get("const")]))
    if kind["type"] == "boolean":
        return st.booleans()
    if kind["type"] == "integer":
        return st.integers(kind["minimum"], kind["maximum"])
    low, high = kind.get("minimum"), kind.get("maximum")
    above, below = kind.get("exclusiveMinimum"), kind.get("exclusiveMaximum")
    return st.floats(
        low if above is None else above,
        high if below is None else below,
        exclude_min=above is not None,
        exclude_max=below is not None,
        allow_nan=False,
        allow_infinity=False,
    )


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
THREE = st.lists(st.floats(0, 1, exclude_min=True), min_size=3, max_size=3)
SPECIAL = {
    "run.loggers": st.lists(st.sampled_from(["tensorboard", "wandb"]), unique=True),
    "data.path": WORDS,
    "data.packed": WORDS,
    "data.subset": WORDS,
    "run.extends": WORDS,
    "model.weights": WORDS,
    "model.freeze": st.lists(WORDS, unique=True),
    "optim.rate_factors": st.lists(st.tuples(WORDS, st.floats(0.1, 10)).map(list)),
    "data.class_order": st.one_of(
        st.sampled_from(["canonical", "shuffled", "sorted"]),
        st.lists(st.integers(0, 1000), min_size=1, unique=True),
        st.lists(WORDS, min_size=1, unique=True),
    ),
    "data.background": st.just([]) | st.lists(st.integers(0, 255), min_size=3, max_size=3),
    "data.mean": THREE,
    "data.std": THREE,
    "augment.auto_augment": st.sampled_from(["", "rand", "rand-m9-mstd0.5-inc1"]),
    "model.backbone": st.sampled_from(["resnet20", "resnet110", "timm:resnet18", "a:b"]),
    "optim.milestones": st.just([]),  # drawn after epochs
    "data.increment": st.sampled_from(["auto", 1, 7]) | st.lists(st.integers(1, 100), min_size=1),
    "optim.name": st.sampled_from(["adamw", "a.b:c", "my own.py:make"]),
    "method.name": st.sampled_from(["wa", "der", "a.b:c", r"C:\x\y.py:make.it"]),
    "data.name": st.sampled_from(["digits", "imagenet100", "a:b"]),
}
OPTION = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
FREE = st.dictionaries(st.sampled_from(["tau", "depth", "_x", "für"]), OPTION)
SPECIAL |= dict.fromkeys(OPTIONS, FREE)


@st.composite
def tables_of(draw):
    """A valid configuration as tables: each key drawn alone, then those that depend on each other mended."""
    tables = {}
    for key, kinds in FIELDS.items():
        table, _, name = key.rpartition(".")
        if table != "optim.first_phase" and draw(st.booleans()):
            tables.setdefault(table, {})[name] = draw(SPECIAL[key] if key in SPECIAL else a_value(kinds))
    data, method, memory = (tables.setdefault(table, {}) for table in ("data", "method", "memory"))
    if data.get("name") == "digits":
        data.pop("path", None)
    else:
        data.setdefault("path", "somewhere")
    if data.get("name") != "a:b":
        data.pop("options", None)
    if data.get("storage") in ("streaming", "packed"):
        data["name"] = "image_folder"
        data.pop("options", None), data.setdefault("path", "somewhere")
    if not set(tables.get("model", {}).get("backbone", "")) & set(":"):
        tables.get("model", {}).pop("options", None)
    if "mean" not in data or "std" not in data:
        data.pop("mean", None), data.pop("std", None)
    if not data.get("validation"):
        data.pop("tests_on", None)
    if tables.get("run", {}).get("recompute"):
        tables["run"]["compile"] = False
    if tables.get("run", {}).get("extends"):
        data.pop("phases", None), data.pop("validation", None), data.pop("tests_on", None)
    if method.get("kd_combination") == "sum":
        method["kd_weight"] = draw(st.floats(0, 1e300))
    elif method.get("kd_weight", "dynamic") != "dynamic":
        method["kd_weight"] = draw(st.floats(0, 1))
    memory["size"] = memory.get("size", 0) + 1 if memory.get("size", 0) < 2**62 else 1
    optim = tables["optim"] = draw(an_optim(tables.get("optim", {})))
    lone = {name: optim[name] for name in ("learning_rate", "momentum", "weight_decay") if name in optim}
    parts = st.one_of(st.just({}), st.just(lone), an_optim(dict(optim)))
    stages = draw(st.dictionaries(st.sampled_from(["bias", "balance", "a2_b"]), parts))
    optim |= stages | {"first_phase": draw(parts)}
    return tables


@st.composite
def an_optim(draw, optim):
    """[optim] with epochs, milestones, warm-up and both batches drawn so that they fit each other."""
    epochs = draw(st.integers(2, 500))
    batch_size = 2 * draw(st.integers(1, 2048))
    adam = {"name": draw(SPECIAL["optim.name"]), "options": draw(FREE)} if draw(st.booleans()) else {}
    lone = {key: value for key, value in optim.items() if key not in ("name", "options")}
    return lone | adam | {
        "epochs": epochs,
        "batch_size": batch_size,
        "norm_batch": draw(st.sampled_from([0, batch_size, 2])),
        "milestones": sorted(draw(st.sets(st.integers(1, epochs - 1), min_size=1, max_size=5))),
        "warmup_epochs": draw(st.integers(0, epochs - 1)),
    }


@settings(max_examples=100, deadline=None)
@given(tables_of())
def test_every_value_survives_and_toml_can_be_fed_back(tmp_path_factory, tables):
    first = config.from_dict(tables)
    resolved = config.to_dict(first)
    for table, keys in tables.items():
        assert {key: resolved[table][key] for key in keys} == keys
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(config.to_toml(first), encoding="utf-8")
    second = config.load(str(path))
    assert second == first and config.fingerprint(second) == config.fingerprint(first)
    assert config.from_dict(json.loads(json.dumps(resolved))) == first  # as results.json holds it


def test_the_fingerprint_is_short_stable_and_of_the_values():
    plain = config.fingerprint(config.load("digits"))
    assert len(plain) == 8 and int(plain, 16) >= 0
    assert plain == config.fingerprint(config.load("digits", ["run.seed=0"]))
    changes = ["run.seed=1", "data.order_seed=1", "optim.first_phase.learning_rate=0.2", "method.align=false"]
    changes += ["method.options.x=1", "method.options.x=true", "optim.name=adamw", "optim.accumulate=2"]
    changes += ["memory.mirror_means=true", "optim.bias.epochs=3"]
    assert len({config.fingerprint(config.load("digits", [change])) for change in changes} | {plain}) == 11


def test_a_new_key_with_its_default_leaves_the_fingerprint_as_it_was():
    """Default run directories are called after it; these are of the version before the keys in ADDED."""
    digits_of_then = [
        "memory.size=100", "method.kd_combination=convex", "method.kd_weight=dynamic", "optim.epochs=20",
        "optim.learning_rate=0.1",
    ]  # fmt: skip
    assert config.fingerprint(config.load("digits", ["run.seed=1", *digits_of_then])) == "bc0f2a1c"
    assert config.fingerprint(config.load("cifar-survey", ["run.seed=1"])) == "9f415ffc"


# --- Presets


def test_the_presets_are_these():
    assert config.presets() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_comes_back_and_opens_with_its_command(name, tmp_path):
    loaded = config.load(name, NEEDS.get(name, []))
    assert config.load(f"{name}.toml", NEEDS.get(name, [])) == loaded
    (tmp_path / "again.toml").write_text(config.to_toml(loaded))
    assert config.load(str(tmp_path / "again.toml")) == loaded
    opening = (ROOT / "cil_func/config/presets" / f"{name}.toml").read_text().splitlines()[0]
    command = "# torchrun train.py" if name == "digits" else f"# torchrun train.py --config {name}.toml"
    assert opening.startswith(command)


def test_digits_is_pinned():
    got = config.load("digits")
    data, augment = got.data, got.augment
    assert (data.name, data.class_order) == ("digits", "canonical")
    assert (data.initial_increment, data.increment) == (0, 2)
    assert (augment.crop_padding, augment.flip, augment.auto_augment, augment.brightness) == (1, False, "", 0)
    assert (got.memory.size, got.memory.selection, got.run.compile, got.run.precision) == (
        20, "herding", False, "float32")  # fmt: skip
    assert (got.method.name, got.method.kd_combination, got.method.kd_weight) == ("wa", "sum", 2.0)


def test_cifar_is_the_tutorials_recipe():
    got, b0 = config.load("cifar"), config.load("cifar-b0-10")
    assert (got.data.initial_increment, got.data.increment, got.data.class_order) == (50, 10, "canonical")
    optim = got.optim_of_phase(0)
    assert (optim.epochs, optim.learning_rate, optim.momentum, optim.weight_decay) == (170, 0.1, 0.9, 5e-4)
    assert (optim.batch_size, optim.norm_batch, optim.schedule) == (512, 128, "cosine")
    assert (got.augment.auto_augment, got.augment.crop_padding) == ("rand-m9-mstd0.5-inc1", 4)
    assert (got.memory.size, got.model.backbone, got.method.align) == (2000, "resnet32", True)
    assert b0.data.initial_increment == 0
    assert b0.model_copy(update={"data": got.data}) == got  # nothing else differs


def test_cifar_survey_is_the_recipe_of_the_published_curves():
    got = config.load("cifar-survey")
    keys = ("epochs", "milestones", "weight_decay", "learning_rate", "batch_size", "norm_batch", "schedule")
    assert [getattr(got.optim_of_phase(0), key) for key in keys] == [
        200, (60, 120, 170), 5e-4, 0.1, 128, 0, "milestones"]  # fmt: skip
    assert [getattr(got.optim_of_phase(1), key) for key in keys] == [
        170, (60, 100, 140), 2e-4, 0.1, 128, 0, "milestones"]  # fmt: skip
    assert (got.method.kd_combination, got.method.kd_weight, got.method.temperature) == ("sum", 2.0, 2.0)
    assert (got.augment.auto_augment, got.augment.brightness) == ("", 63 / 255)


def test_folder_is_for_images_of_ones_own():
    """No class count, size or statistics of somebody else's data set; a path is all that is left to give."""
    assert refused("folder").startswith("data.path: missing")
    got = config.load("folder", ["data.path=x"])
    assert (got.data.name, got.data.mean, got.data.std) == ("image_folder", (), ())
    assert (got.data.increment, got.data.initial_increment) == ("auto", 0)
    assert got.data.image_size > 0 and got.memory.fixed_per_class > 0


def test_importing_it_imports_nothing_heavy():
    heavy = ("torch", "timm", "continuum", "numpy", "PIL", "sklearn")
    modules = "cil_func.config, cil_func.config.effects, cil_func.config.names"
    command = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    run = [sys.executable, "-c", command]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_mistake_in_the_configuration_of_a_run_names_its_file(tmp_path):
    """A person who gives the run's directory has typed no such key."""
    path = tmp_path / "config.toml"
    for text, says in (
        ("[run]\nbackendx = 1\n", rf"^{path}: run\.backendx: unknown key; .*; the version that wrote it may read it$"),
        ("[run\n", rf'^"{path}", line 1: not TOML: '),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            config.of_run(tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_run_without_a_configuration_names_the_file_that_is_missing(make, tmp_path):
    """No preset is meant there."""
    make(tmp_path / "config.toml")
    with pytest.raises(ConfigError) as failure:
        config.of_run(tmp_path)
    assert str(failure.value) == f"{tmp_path / 'config.toml'}: no such file; put it back from a copy of the run"
