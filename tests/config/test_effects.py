"""Which keys have an effect: every key is classified, and those without one are named in one line."""

import pytest

from cil_func import config, methods
from cil_func.config import effects, of_methods
from cil_func.config.messages import hints_of
from cil_func.data import sources

TABLES = {"run", "data", "augment", "model", "memory", "method", "optim", "optim.first_phase", "checkpoint"}


def line(name, *overrides, processes=1):
    """What is said of the overrides of a preset."""
    return effects.without_effect(
        config.load(name, overrides), config.set_keys(overrides), processes=processes
    )


def test_every_key_of_the_schema_is_classified():
    assert set(effects.TABLE) == set(hints_of(config.Config)) - TABLES


def test_methods_and_data_sets_are_what_the_table_says():
    made = {name: methods.make(name, methods.Options()) for name in methods.TABLE}
    assert {name for name, method in made.items() if method.uses_memory} == set(effects.WITH_MEMORY) & set(made)
    own_use = {"podnet", "der", "icarl-bce", "eeil", "lucir", "foster", "tagfex"}  # of the last model
    taught = {name for name, method in made.items() if method.uses_teacher}
    assert taught - own_use == set(effects.WITH_KD) & set(made)
    assert list(of_methods.TABLE) == list(methods.TABLE)
    for name, method in made.items():  # stages that are left out by default have the name too
        assert {stage.name for stage in method.stages} <= set(of_methods.TABLE[name].stages)
    assert effects.OF_FILES == sources.OF_FILES


MEMORY = [
    "memory.size=60", "memory.fixed_per_class=3", "memory.selection=random", "memory.mirror_means=true",
    "memory.keep=false",
]  # fmt: skip
DISTILLATION = ["method.temperature=3", "method.kd_combination=convex", "method.kd_weight=0.5"]
OF_WA = ["method.clip_weights=true", "method.align=false"]
SEVERAL = "memory.fixed_per_class and memory.selection and memory.mirror_means and memory.keep"
LINES = [
    ("digits", ["method.name=finetune", *MEMORY[1:]], f'{SEVERAL} have no effect with method.name = "finetune"'),
    ("digits", ["method.name=joint", MEMORY[0]], 'memory.size has no effect with method.name = "joint"'),
    ("digits", ["method.name=lwf", MEMORY[0]], 'memory.size has no effect with method.name = "lwf"'),
    ("digits", MEMORY[:2], "memory.size has no effect with memory.fixed_per_class = 3"),
    ("digits", ["memory.size=0", *MEMORY[2:]],
     "memory.selection and memory.mirror_means and memory.keep have no effect with memory.size = 0 and "
     "memory.fixed_per_class = 0"),
    *[("digits", [f"method.name={name}", "method.temperature=3"],
       f'method.temperature has no effect with method.name = "{name}"') for name in ("replay", "finetune", "joint")],
    ("digits", ["method.name=replay", *DISTILLATION[1:]],
     'method.kd_combination and method.kd_weight have no effect with method.name = "replay"'),
    ("digits", ["method.kd_weight=0", DISTILLATION[0]], "method.temperature has no effect with method.kd_weight = 0.0"),
    *[("digits", [f"method.name={name}", OF_WA[0]], f'method.clip_weights has no effect with method.name = "{name}"')
      for name in ("icarl", "replay", "lwf", "finetune", "joint")],
    ("digits", ["method.name=icarl", OF_WA[1]], 'method.align has no effect with method.name = "icarl"'),
    ("digits", ["method.lwf_classes=seen"], 'method.lwf_classes has no effect with method.name = "wa"'),
    ("digits", ["method.name=podnet", "method.label_smoothing=0.1"],
     'method.label_smoothing has no effect with method.name = "podnet"'),
    ("digits", ["optim.name=adamw", "optim.momentum=0.5"], 'optim.momentum has no effect with optim.name = "adamw"'),
    ("digits", ["optim.first_phase.name=adamw", "optim.first_phase.momentum=0.5"],
     'optim.first_phase.momentum has no effect with optim.first_phase.name = "adamw"'),
    ("digits", ["optim.bias.epochs=3"], 'optim.bias.epochs has no effect with method.name = "wa"'),
    ("digits", ["optim.bias={epochs=3, options={}}"],
     'optim.bias.options and optim.bias.epochs have no effect with method.name = "wa"'),
    ("digits", ["optim.milestones=[3]"], 'optim.milestones has no effect with optim.schedule = "cosine"'),
    ("digits", ["optim.milestone_factor=0.5"], 'optim.milestone_factor has no effect with optim.schedule = "cosine"'),
    ("cifar-survey", ["optim.first_phase.schedule=cosine", "optim.first_phase.milestones=[3]"],
     'optim.first_phase.milestones has no effect with optim.first_phase.schedule = "cosine"'),
    ("digits", ["optim.first_phase={milestones=[3]}"],
     'optim.first_phase.milestones has no effect with optim.schedule = "cosine"'),
    ("digits", ["optim.eval_every_epochs=40"], "optim.eval_every_epochs has no effect with optim.epochs = 30"),
    ("digits", ["data.order_seed=3"], 'data.order_seed has no effect with data.class_order = "canonical"'),
    ("digits", ["data.on_error=skip"], 'data.on_error has no effect with data.name = "digits"'),
    ("digits", ["data.subset=first-100"], 'data.subset has no effect with data.name = "digits"'),
    ("folder", ["data.path=x", "data.packed=y"], 'data.packed has no effect with data.storage = "auto"'),
    ("folder", ["data.path=x", "data.storage=resident", "data.workers=3"],
     'data.workers has no effect with data.storage = "resident"'),
    ("digits", ["data.workers=3"], 'data.workers has no effect with data.name = "digits"'),
    ("cifar", ["data.exif_orientation=apply", "data.background=[]"],
     'data.exif_orientation and data.background have no effect with data.name = "cifar100"'),
    ("digits", ["run.recompute=true", 'model.freeze=["backbone"]'],
     'run.recompute has no effect with model.freeze = ["backbone"]'),
    ("digits", ["model.drop_rate=0.1", "model.drop_path_rate=0.1"],
     'model.drop_rate and model.drop_path_rate have no effect with model.backbone = "resnet20"'),
    ("digits", ["augment.backend=pil"], 'augment.backend has no effect with augment.auto_augment = ""'),
    ("digits", ["run.timeout_seconds=5"], "run.timeout_seconds has no effect with one process"),
    ("digits", ["data.order_seed=3", "run.timeout_seconds=5"],
     'data.order_seed has no effect with data.class_order = "canonical"; '
     "run.timeout_seconds has no effect with one process"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overrides", "expected"), LINES)
def test_a_key_without_effect_is_named_with_what_decides(name, overrides, expected):
    assert line(name, *overrides) == expected


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("digits", [MEMORY[0], *MEMORY[2:], *DISTILLATION, *OF_WA]),
        ("digits", ["method.name=icarl", *MEMORY[1:], *DISTILLATION]),
        ("digits", ["method.name=replay", *MEMORY[1:]]),
        ("digits", ["method.name=lwf", *DISTILLATION]),
        ("digits", ["method.name=finetune"]),  # what digits.toml says of memory is nobody's mistake
        ("digits", ["optim.schedule=milestones", "optim.milestones=[3]", "optim.milestone_factor=0.5"]),
        # in phase 0 alone
        ("digits", ["optim.first_phase.schedule=milestones", "optim.milestones=[3]", "optim.milestone_factor=0.5"]),
        ("digits", ["optim.first_phase.epochs=60", "optim.eval_every_epochs=50"]),
        ("digits", ["data.class_order=shuffled", "data.order_seed=3"]),
        ("cifar", ["augment.backend=pil"]),
        ("folder", ["data.path=x", "data.on_error=skip", "data.exif_orientation=ignore", "data.background=[0, 0, 0]"]),
        ("digits", ["optim.first_phase={}"]),
        ("digits", ["method.name=bic", "optim.bias.epochs=3", "optim.bias={momentum=0.5}"]),
        ("digits", ["method.name=bic", "optim.name=adamw", "optim.bias.name=sgd", "optim.momentum=0.5"]),
        ("digits", ["optim.name=own:make", "optim.momentum=0.5", "optim.options.x=1"]),
        ("digits", ["method.name=der", *OF_WA[1:], "method.options.auxiliary=2", *MEMORY[1:]]),
        # what a user's own method uses isn't known
        ("digits", ["method.name=own:make", "method.options.x=1", *MEMORY[1:], *DISTILLATION, *OF_WA,
                    "method.lwf_classes=seen", "method.label_smoothing=0.1", "optim.any_stage.epochs=3"]),
        ("digits", ["model.backbone=own.py:make", "model.drop_rate=0.1", "model.options.depth=3"]),
        ("digits", ["data.name=own.py:make", "data.options.size=3"]),
    ],
)
def test_a_key_with_an_effect_is_not_named(name, overrides):
    assert line(name, *overrides) == ""


def test_of_several_processes_each_waits_for_the_others():
    assert line("digits", "run.timeout_seconds=5", processes=2) == ""
    assert line("digits", "run.timeout_seconds=5", processes=0) == ""  # nobody knows how many there will be


def test_every_key_that_can_be_without_effect_is_tried_above():
    tried = {key for _, overrides, _ in LINES for key in config.set_keys(overrides)}
    sometimes = {key for key, use in effects.TABLE.items() if use.deciding(config.load("digits"))}
    phase_0 = {key for key in sometimes if key.startswith("optim.")}  # one rule for all keys of [optim]
    assert sometimes - phase_0 <= tried
