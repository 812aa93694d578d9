"""Frozen parts are neither copied nor written again: a checkpoint names the last phase's tensors."""

import re
from pathlib import Path

import borders
import pytest
import tiny
import torch

from cil_func import experiment, methods, rng, tree
from cil_func.config import load
from cil_func.runs import setup
from cil_func.training.progress import unpack

SETTINGS = (
    "run.precision=float64", "run.compile=false", "run.device=cpu", "optim.epochs=1", "optim.batch_size=8",
    "optim.norm_batch=4", "optim.learning_rate=0.02", "data.increment=2", "memory.size=8",
    'model.freeze=["backbone.stem", "backbone.stage0", "backbone.stage1"]',
)  # fmt: skip


@pytest.mark.parametrize("name", ["wa", "der", "memo"])
def test_a_run_with_frozen_parts_goes_on_from_any_border_with_the_same_bits(name, monkeypatch):
    tiny.shallow(monkeypatch)
    words = [*tiny.settings(folder=tiny.images(4, 9)), *SETTINGS, f"method.name={name}"]
    made, seen = setup.build(load("digits", words)).experiment, borders.Borders()
    expected = borders.run(made, hook=seen).learned
    drawn = experiment.expand(made, made.scenario.phases[0], None, 0, {}).params  # another key: other weights
    borders.check_each(made, seen.found)
    for _, parts, record in (seen.found[0], seen.found[-1]):
        found = borders.run(made, unpack(parts, record, device=borders.CPU)).learned
        tree.map(lambda mine, theirs: torch.testing.assert_close(mine, theirs, rtol=0, atol=0), found, expected)
    later = [(parts, record) for _, parts, record in seen.found if record["phase"] == 1 and record["training"]]
    assert later
    for parts, record in later:
        written = [*tree.to_paths(parts["training"]["params"]), *tree.to_paths(parts["training"]["state"])]
        velocity = [*tree.to_paths(parts["training"]["opt_state"])]
        assert record["training"]["shared"]["params"] and record["training"]["shared"]["state"]
        for path in [*written, *velocity]:
            assert not any(f".{part}." in f".{path}." for part in ("stem", "stage0", "stage1")), path
    frozen = [path for path in tree.to_paths(drawn) if ".stage1." in path]
    first = tree.to_paths(seen.found[0][1]["training"]["params"])
    assert frozen and all(torch.equal(tree.to_paths(expected.params)[path], first[path]) for path in frozen)


def test_the_readmes_frozen_backbone_is_that_of_model_freeze(monkeypatch, tmp_path):
    """Nothing in its weights and statistics moves, so no feature does; the classifier learns."""
    tiny.shallow(monkeypatch)
    page = (Path(methods.__file__).parent / "README.md").read_text()
    [recipe] = re.findall(r'`(replace\(finetune\.make\(options\), .*norm="eval"\))`', page)
    imports = "from dataclasses import replace\nfrom cil_func.methods import finetune\n"
    (tmp_path / "own.py").write_text(f"{imports}make = lambda options: {recipe}\n")
    learned = []
    for more in ((f"method.name={tmp_path / 'own.py'}:make",), ("method.name=finetune", 'model.freeze=["backbone"]')):
        words = [*tiny.settings(folder=tiny.images(4, 9)), *SETTINGS[:-1], "optim.norm_batch=0", *more]
        made = setup.build(load("digits", words)).experiment
        learned.append(borders.run(made).learned)
    key = rng.fold_in(made.seed, "phase", 0)
    drawn = experiment.expand(made, made.scenario.phases[0], None, key, {})
    for model in learned:
        assert all(map(torch.equal, tree.leaves(model.state), tree.leaves(drawn.state)))
        assert all(map(torch.equal, *(tree.leaves(each.params["backbone"]) for each in (model, drawn))))
    own, frozen = (model.params["classifier"]["weight"] for model in learned)
    torch.testing.assert_close(own, frozen, rtol=0, atol=1e-12)
    assert not torch.equal(own[:2], drawn.params["classifier"]["weight"])
