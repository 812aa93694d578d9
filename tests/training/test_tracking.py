"""What a method remembers, renewed after each update: eager, compiled and captured, and when a step isn't finite."""

import fake_cuda
import one_conv
import pytest
import torch

from cil_func import tree
from cil_func.training import step
from cil_func.training.runners import CapturedSteps, EagerSteps


def walk(run, batches, threader=EagerSteps, name="rwalk", **options):
    """The train state after a step on each batch."""
    _, classes, begun = one_conv.begin(name, **options)
    steps = threader(run, begun, classes)
    for batch in batches:
        steps(None, batch, one_conv.RATE)
    return begun, steps.snapshot()[0]


def test_compiled_and_captured_steps_remember_the_same(monkeypatch):
    fake_cuda.install(monkeypatch)
    method, classes, _ = one_conv.begin("rwalk", every=2)
    batches = [one_conv.draw(6, classes, seed) for seed in range(4)]
    run = step.join(one_conv.parts(method))
    begun, expected = walk(run, batches, every=2)
    for part in ("fisher", "gathered", "since"):
        assert not torch.equal(tree.to_vector(expected.extra[part]), tree.to_vector(begun.extra[part]))
    assert expected.extra["steps"] == 4
    fast = torch.compile(run, fullgraph=True, dynamic=False, backend="aot_eager")
    for function, threader in ((fast, EagerSteps), (run, CapturedSteps)):
        _, found = walk(function, batches, threader, every=2)
        tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-15), tuple(found), tuple(expected))


def test_a_step_that_is_not_finite_changes_nothing_that_is_remembered():
    for name in ("si", "rwalk"):
        method, classes, _ = one_conv.begin(name)
        run, batch = one_conv.parts(method), one_conv.draw(6, classes)

        def broken(vector):
            return torch.where(torch.arange(len(vector)) == 3, torch.nan, vector)

        _, before = walk(step.join(run), [batch], name=name)
        _, after = walk(step.join(run, broken), [batch], name=name)
        assert after.health.failed_step == 0
        assert tree.to_vector(after.extra).isfinite().all()
        assert not torch.equal(tree.to_vector(after.extra), tree.to_vector(before.extra))


def test_a_method_without_it_hands_the_very_tensors_on():
    """So nothing is computed, and a captured step copies nothing: overlapping memory can't be written."""
    method, classes, _ = one_conv.begin("ewc")
    begun, found = walk(step.join(one_conv.parts(method)), [one_conv.draw(6, classes)], name="ewc")
    assert method.track is None and found.extra is begun.extra
    overlapping = {"same": torch.ones(1).expand(2)}
    tree.write(overlapping, into=overlapping)
    with pytest.raises(RuntimeError, match="single memory location"):
        tree.write({"same": torch.ones(2)}, into=overlapping)
