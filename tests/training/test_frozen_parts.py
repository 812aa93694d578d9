"""Frozen parts are neither copied nor written again: a checkpoint names the last phase's tensors."""

import borders
import pytest
import tiny
import torch

from cil_func import experiment, tree
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
