"""What is said of each key: complete, true where it can be checked, and the same in all places."""

import json
import tomllib

import jsonschema
import pytest

from cil_func import config
from cil_func.config import effects, explain, json_schema, meanings
from cil_func.config.messages import hints_of
from cil_func.errors import ConfigError

HINTS = hints_of(config.Config)
KEYS = [key for key in HINTS if not explain._is_table(key)]


def test_every_key_has_a_meaning_that_is_a_sentence():
    texts = meanings.of_keys()
    assert set(texts) == set(HINTS)
    for key, text in texts.items():
        assert text.endswith(".") and len(text) > 10 and "\n" not in text and text.isprintable(), key
    assert texts["optim.momentum"] == "Momentum of sgd; adamw has betas in its options."
    assert texts["optim.first_phase.norm_batch"] == texts["optim.norm_batch"]
    assert texts["run"] == "Where and how the arithmetic is done."


def test_a_key_is_explained_with_its_type_its_default_its_methods_and_an_example():
    kept = ", ".join(name for name in effects.METHODS if name in effects.WITH_MEMORY)
    assert kept.startswith("wa, replay, icarl, bic, podnet, der, ")
    assert explain.explain("memory.selection").splitlines() == [
        "memory.selection",
        "  How exemplars are chosen. herding: so that the mean feature of the first ones is nearest to the",
        "  class's, for any number of them (iCaRL). closest: those nearest to the class's mean feature.",
        "",
        '  takes    one of "herding", "random", "closest"',
        '  default  "herding"',
        f"  used by  {kept}, your own",
        "  example  --set memory.selection=random",
    ]


def said(key, what):
    """What the lines about a key say after a word."""
    (line,) = [line for line in explain.explain(key).splitlines() if line.startswith(f"  {what}  ")]
    return line[11:]


def test_which_methods_use_a_key():
    assert said("optim.epochs", "used by") == said("run.seed", "used by") == "all methods"
    assert said("method.lwf_classes", "used by") == "lwf, lwm, your own"
    assert said("method.temperature", "used by") == "wa, lwf, icarl, bic, eeil, lwm, foster, coil, tagfex, your own"
    assert said("optim.milestones", "used by") == 'no method while optim.schedule = "cosine", the default'
    assert said("data.order_seed", "used by") == 'no method while data.class_order = "canonical", the default'
    assert said("optim.bias.epochs", "used by") == "bic, your own"
    assert said("optim.mine.epochs", "used by") == "a method of your own"


def test_keys_of_stages_and_options_are_explained_as_what_they_are():
    assert said("optim.bias.epochs", "default") == "as in [optim], or the stage has its own"
    assert said("optim.bias.epochs", "example").startswith("--set optim.bias.epochs=")
    assert said("method.options", "example") == "--set method.options.NAME=VALUE"
    assert said("method.options.strength", "example") == "--set method.options.strength=VALUE"
    assert said("data.increment", "example") == "--set data.increment=[10, 20, 20]"
    assert said("data.path", "default") == '""' and said("data.path", "example") == "--set data.path=my/images"


@pytest.mark.parametrize("key", KEYS)
def test_every_example_is_a_value_that_the_key_takes(key):
    value = explain.example(key)
    if value == {}:  # a free table
        return
    table, _, name = key.replace("optim.first_phase.", "optim.").partition(".")
    assert value != config.to_dict(config.Config())[table][name]
    try:
        config.load("cifar", [said(key, "example").removeprefix("--set ")])
    except ConfigError as refusal:  # alone it may not fit the others
        assert "is not allowed" not in str(refusal) and "unknown" not in str(refusal), refusal


def test_a_table_and_no_key_at_all_list_what_there_is():
    listed = explain.explain("").splitlines()
    assert all(any(line.startswith(f"  {key} ") for line in listed) for key in KEYS if "first_phase" not in key)
    assert all(any(line.startswith(f"[{table}]: ") for line in listed) for table in ("run", "optim", "checkpoint"))
    assert max(map(len, listed)) <= 100
    assert explain.explain("memory") == explain.explain("[memory]") and "\n  memory.size " in explain.explain("memory")
    assert "\n  optim.first_phase.epochs " in explain.explain("optim.first_phase")
    assert explain.explain("optim.bias").startswith("[optim.bias]: ")


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("optim.epoch", "--explain optim.epoch: unknown key; did you mean optim.epochs?"),
        ("epochs", "--explain epochs: unknown table; did you mean optim.epochs?"),
        ("memry", "--explain memry: unknown table; did you mean [memory]?"),
        ("memory.zzz", "--explain memory.zzz: unknown key; [memory] has size, fixed_per_class, selection, "
                       "mirror_means, keep"),
        ("optim.bias.epoch", "--explain optim.bias.epoch: unknown key; did you mean optim.epochs?"),
    ],
)  # fmt: skip
def test_a_key_that_there_is_not_names_the_nearest(key, line):
    with pytest.raises(ConfigError) as caught:
        explain.explain(key)
    assert str(caught.value) == line


def test_the_methods_in_the_list_are_those_of_the_schema():
    for name in effects.METHODS:
        assert config.load("cifar", [f"method.name={name}"]).method.name == name
    assert set(effects.WITH_MEMORY + effects.WITH_KD + effects.WITH_ALIGN) | set(effects.STAGES) < set(effects.METHODS)


# --- The JSON schema


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(json_schema.make()))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    return jsonschema.Draft202012Validator(schema)


OF_FILES = ("folder", "cub200", "imagenet")  # presets that need a folder


@pytest.mark.parametrize("name", config.presets())
def test_the_json_schema_takes_every_preset_as_written_and_as_resolved(name, validator):
    loaded = config.load(name, ["data.path=somewhere"] if name.startswith(OF_FILES) else [])
    validator.validate(config.to_dict(loaded))
    validator.validate(tomllib.loads((config.load.__globals__["_CONFIGS"] / f"{name}.toml").read_text()))


GOOD = [
    "data.increment = [10, 20]", 'data.increment = "auto"', "optim.bias.epochs = 3", "method.options.x = [1, {y = 2}]",
    r'method.name = "C:\\x\\y.py:make"', 'optim.first_phase.name = "adamw"', 'method.kd_weight = "dynamic"',
]  # fmt: skip
BAD = [
    "optim.epochs = 0", "optim.epoch = 3", "optim.bias.epoch = 3", "optim.Bias.epochs = 3", 'method.name = "wq"',
    "optim.first_phase.epochs = 0", "data.increment = [0]", 'data.increment = "five"', "run.threads = 1025",
    'method.options."a b" = 1', "optim.momentum = 1", "optm = {}", 'model.backbone = "resnet18"', 'run.device = "gpu"',
]  # fmt: skip


@pytest.mark.parametrize("line", GOOD + BAD)
def test_the_json_schema_takes_and_refuses_what_loading_does(line, validator, tmp_path):
    tables = tomllib.loads(line)
    assert validator.is_valid(tables) == (line in GOOD), list(validator.iter_errors(tables))
    if line in GOOD:
        config.from_dict(tables)
    else:
        with pytest.raises(ConfigError):
            config.from_dict(tables)


def test_every_key_has_its_meaning_in_the_json_schema():
    schema = json_schema.make()

    def described(table, prefix):
        for name, field in table["properties"].items():
            assert field["description"] == meanings.of_keys()[prefix + name]
            if "$ref" in field:
                described(schema["$defs"][field["$ref"].rpartition("/")[2]], f"{prefix}{name}.")

    described(schema, "")
    assert "null" not in json.dumps(schema)


def test_the_command_prints_the_schema_or_the_table(capsys):
    assert json_schema.main([]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema.make()))
    assert json_schema.main(["--markdown"]) == 0
    assert capsys.readouterr().out == explain.readme_table()
    assert json_schema.main(["--mark"]) == 2
    assert capsys.readouterr().err == "schema: unrecognized arguments: --mark; --help lists the flags\n"
