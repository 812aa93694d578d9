"""What a method remembers, renewed after each update: eager, compiled and captured, and when a step isn't finite."""

from dataclasses import replace

import fake_cuda
import one_conv
import pytest
import torch
from torch._dynamo.utils import counters

from cil_func import methods, tree
from cil_func.data.batch import Batch, ReplayBatch, Replayed
from cil_func.errors import OwnCodeError
from cil_func.parallel.processes import ALONE
from cil_func.training import recipe, runners, step, step_state
from cil_func.training.runners import CapturedSteps, EagerSteps


def walk(run, batches, threader=EagerSteps, name="rwalk", **options):
    """The train state after a step on each batch."""
    _, classes, begun = one_conv.begin(name, **options)
    steps = threader(run, begun, classes)
    for batch in batches:
        steps(None, batch, one_conv.RATE)
    return begun, steps.snapshot()[0]


@pytest.mark.parametrize("name", methods.TABLE)
def test_no_tensor_of_a_train_state_is_another_one(name):
    """Or a step whose first input has one tensor twice, and whose later inputs don't, is compiled twice."""
    options = {"heads": 2} if name == "tagfex" else {}  # the network has four features
    tensors = tree.leaves(tuple(one_conv.begin(name, **options)[2]))
    assert len({id(leaf) for leaf in tensors}) == len(tensors)


def test_compiled_and_captured_steps_remember_the_same(monkeypatch):
    fake_cuda.install(monkeypatch)
    torch._dynamo.reset()
    counters.clear()
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
    assert counters["stats"]["unique_graphs"] == 1


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


TRACKED = {
    "wide": (lambda extra: {**extra, "n": extra["n"].expand(2, 2)}, r"returned a tensor \(2, 2\); a tensor \(2,\)"),
    "less": (lambda extra: {"n": extra["n"]}, "returned other parts than it was given: dict of "),
    "number": (lambda extra: {**extra, "m": 1.0}, r"returned 1.0; a tensor \(\) fits"),
    "double": (lambda extra: {**extra, "n": extra["n"].double() + 1}, ""),
}


@pytest.mark.parametrize(("kind", "fast"), [*((kind, False) for kind in TRACKED), ("double", True)])
def test_what_a_track_returns_has_the_shapes_and_dtypes_of_what_it_was_given(kind, fast):
    """torch.where would broadcast it."""
    renewed, says = TRACKED[kind]
    base, classes, begun = one_conv.begin("finetune")
    method = replace(base, track=lambda extra, *given: renewed(extra))
    begun = begun._replace(extra={"n": torch.zeros(2, dtype=torch.float32), "m": torch.zeros(())})
    run = step.join(one_conv.parts(method))
    if fast:
        torch._dynamo.reset()
        run = torch.compile(run, fullgraph=True, dynamic=False, backend="aot_eager")
    batch = one_conv.draw(6, classes)
    if says:
        with pytest.raises(OwnCodeError, match=f"method.name: track {says}"):
            run(begun, None, batch, classes, one_conv.RATE)
        return
    extra = run(begun, None, batch, classes, one_conv.RATE)[0].extra
    assert extra["n"].dtype == torch.float32 and extra["n"].tolist() == [1.0, 1.0] and extra["m"] == 0


def test_a_method_without_it_hands_the_very_tensors_on():
    """So nothing is computed, and a captured step copies nothing: overlapping memory can't be written."""
    method, classes, _ = one_conv.begin("ewc")
    begun, found = walk(step.join(one_conv.parts(method)), [one_conv.draw(6, classes)], name="ewc")
    assert method.track is None and found.extra is begun.extra
    overlapping = {"same": torch.ones(1).expand(2)}
    tree.write(overlapping, into=overlapping)
    with pytest.raises(RuntimeError, match="single memory location"):
        tree.write({"same": torch.ones(2)}, into=overlapping)


def test_a_step_with_exemplars_is_the_same_compiled_and_captured(monkeypatch):
    """GEM's, with a group for each of two earlier phases; its quadratic program is in the compiled update."""
    fake_cuda.install(monkeypatch)
    method, classes, _ = one_conv.begin("gem", phase=2, images=4)
    run = one_conv.parts(method)
    labels = torch.tensor([[0, 1, 0, 1], [2, 3, 3, -1]])
    images = torch.stack([one_conv.draw(4, classes, seed).images for seed in (7, 8)])
    beside = Replayed(images, labels, torch.tensor([0, 1]))
    batches = [ReplayBatch(*one_conv.draw(6, classes, seed), beside) for seed in range(3)]

    def walked(parts, threader=EagerSteps, batches=batches):
        _, classes, begun = one_conv.begin("gem", phase=2, images=4)
        steps = threader(step.join(parts), begun, classes)
        for batch in batches:
            steps(None, batch, one_conv.RATE)
        return tuple(steps.snapshot()[0])

    expected = walked(run)
    without = walked(run, batches=[Batch(*batch[:2]) for batch in batches])
    assert not torch.equal(tree.to_vector(expected[0]), tree.to_vector(without[0]))
    compiled = [torch.compile(part, fullgraph=True, dynamic=False, backend="aot_eager") for part in run[1:3]]
    for parts, threader in ((run._replace(update=compiled[0], replayed=compiled[1]), EagerSteps), (run, CapturedSteps)):
        tree.map(
            lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-14), walked(parts, threader), expected
        )  # fmt: skip
    broken = walked(run._replace(replayed=lambda *given: run.replayed(*given) * torch.nan))
    name = step_state.entry_name(step_state.TrainState(*broken), broken[3].entry.item(), method.main)
    assert name == "a gradient of the exemplars beside a batch"


def test_the_parts_of_a_compiled_step_are_put_together_with_their_groups(monkeypatch):
    monkeypatch.setattr(runners, "compiled", lambda function, **more: function)
    method, classes, begun = one_conv.begin("gem", phase=2, images=4)
    parts, labels = one_conv.parts(method), torch.tensor([[0, 1, 0, 1], [2, 3, 3, 2]])
    images = torch.stack([one_conv.draw(4, classes, seed).images for seed in (7, 8)])
    batch = ReplayBatch(*one_conv.draw(6, classes, 1), Replayed(images, labels, torch.tensor([0, 1])))
    found, expected = (
        run(begun, None, batch, classes, one_conv.RATE)
        for run in (recipe._compiled(parts, ALONE, 0, 1), step.join(parts))
    )
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), found, expected)
