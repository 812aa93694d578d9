"""[optim.STAGE]: which names are stages, what a stage has of [optim], and what is refused."""

import pytest

from cil_func import config
from cil_func.config import effects, stages
from cil_func.errors import ConfigError


def refused(overrides, name="cifar"):
    with pytest.raises(ConfigError) as caught:
        config.load(name, overrides)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_any_lower_case_name_is_a_stage_unless_it_looks_like_a_key():
    for name in ("bias", "balance", "head", "compress_2", "weights"):
        assert stages.is_stage(["optim", name]) and stages.is_stage(["optim", name, "epochs"]), name
    for name in ("epochs", "first_phase", "options", "firstphas", "option", "epoch", "Bias", "2nd", "a-b"):
        assert not stages.is_stage(["optim", name]), name
    assert not stages.is_stage(["model", "bias"]) and not stages.is_stage(["optim"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.bias.epoch=1", "--set optim.bias.epoch: unknown key; did you mean optim.bias.epochs?"),
        ("optim.bias={epoch=1}", "optim.bias.epoch: unknown key; did you mean optim.bias.epochs?"),
        ("optim.bias.epochs=0", "optim.bias.epochs: 0 is not allowed; an integer >= 1"),
        ("optim.bias={epochs=0, lr=1}", "optim.bias.epochs: 0 is not allowed; an integer >= 1; and 1 more mistake"),
        ("optim.bias.options.x=nan", "optim.bias.options.x: nan is not allowed; a string, true or false, an integer"),
        ("optim.first_phas.epochs=1", "--set optim.first_phas.epochs: unknown key; did you mean optim.epochs?"),
        ("optim.first_phas={}", "--set optim.first_phas: unknown key; did you mean [optim.first_phase]?"),
        ("optim.Bias.epochs=1", "--set optim.Bias.epochs: unknown key; did you mean optim.epochs?"),
        ("optim.bias.first_phase.epochs=1", "--set optim.bias.first_phase.epochs: unknown key; did you mean "),
        ("optim.bias.epochs", '--set optim.bias.epochs: no "="; write --set optim.bias.epochs=value'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_stages_table_is_refused_by_name(override, line):
    assert refused([override]).startswith(line)


def test_what_is_neither_a_key_nor_a_stages_table_in_a_file(tmp_path):
    (tmp_path / "c.toml").write_text("[optim]\nepoch = 3\nepochs = 0\n[optim.first_phas]\n[optim.bias]\nx = 1\n")
    line = refused([], str(tmp_path / "c.toml"))
    assert line == "optim.epochs: 0 is not allowed; an integer >= 1; and 3 more mistakes"
    (tmp_path / "c.toml").write_text("[optim]\nepoch = 3\n")
    assert refused([], str(tmp_path / "c.toml")) == "optim.epoch: unknown key; did you mean optim.epochs?"


def test_a_stage_has_its_table_before_its_defaults_before_optim():
    got = config.load("cifar", ["optim.bias.epochs=3", "optim.bias.weight_decay=0.5", "optim.first_phase.momentum=0.3"])
    defaults = {"epochs": 20, "learning_rate": 0.01}
    own = got.optim_of_stage(2, "bias", defaults)
    assert (own.epochs, own.learning_rate, own.weight_decay, own.momentum) == (3, 0.01, 0.5, 0.9)
    other = got.optim_of_stage(2, "balance", defaults)
    assert (other.epochs, other.learning_rate, other.weight_decay, other.momentum) == (20, 0.01, 5e-4, 0.9)
    assert got.optim_of_stage(0, "bias", defaults) == own  # first_phase is that of the training that phases begin with
    assert got.optim_of_stage(0, "").momentum == 0.3 and got.optim_of_stage(1, "").momentum == 0.9
    assert got.optim_of_stage(1, "") == got.optim_of_phase(1) and got.optim_of_phase(0).epochs == 170


def test_another_optimiser_does_not_inherit_options():
    settings = ["optim.name=adamw", "optim.options.betas=[0.8, 0.9]", "optim.bias.name=sgd"]
    got = config.load("cifar", settings)
    assert got.optim_of_stage(1, "").options.plain() == {"betas": [0.8, 0.9]}
    assert got.optim_of_stage(1, "bias").options.plain() == {}
    assert got.optim_of_stage(1, "head").options.plain() == {"betas": [0.8, 0.9]}
    got = config.load("cifar", [*settings, "optim.bias.name=own:f", "optim.bias.options.x=1"])
    assert got.optim_of_stage(1, "bias", {"name": "sgd"}).options.plain() == {"x": 1}


def test_what_does_not_fit_together_in_a_stage_is_refused_where_its_defaults_are_known():
    got = config.load("cifar", ["optim.bias.milestones=[10, 15]", "optim.bias.schedule=milestones"])
    assert got.optim_of_stage(1, "bias", {"epochs": 20}).milestones == (10, 15)
    with pytest.raises(ConfigError, match=r"^optim\.bias\.milestones: \[10, 15\] with schedule = .* and epochs = 12; "):
        got.optim_of_stage(1, "bias", {"epochs": 12})
    with pytest.raises(ConfigError, match=r"^optim\.bias\.epochs: 0 is not allowed; an integer >= 1$"):
        got.optim_of_stage(1, "bias", {"epochs": 0})
    with pytest.raises(ConfigError, match=r"^optim\.bias\.epoch: unknown "):
        got.optim_of_stage(1, "bias", {"epoch": 3})


def test_tables_of_stages_that_the_method_lacks_are_named():
    got = config.load("cifar", ["method.name=podnet", "optim.balanced.epochs=3"])
    expected = '[optim.balanced] has no effect with method.name = "podnet"; did you mean [optim.balance]?'
    assert effects.unused_stages(got, ["balance"]) == expected
    got = config.load("cifar", ["optim.one.epochs=3", "optim.other.epochs=3"])
    expected = '[optim.one] and [optim.other] have no effect with method.name = "wa"; it has no stages'
    assert effects.unused_stages(got, []) == expected
    assert effects.unused_stages(got, ["one", "other", "third"]) == ""
