"""The step against a conventional loop: torch.nn, backward(), torch.optim.SGD, on sliced logits."""

from dataclasses import replace

import pytest
import reference
import torch
import torch.nn.functional as F

from cil_func import classifier, methods, model, optim, tree
from cil_func.data.resident import Batch
from cil_func.engine import step

WIDTH, SEEN, OLD = 9, 6, 4
SUM = methods.Options(kd_combination="sum", kd_weight=2.0)
CLASSES = methods.Classes(seen=torch.arange(WIDTH) < SEEN, old=torch.arange(WIDTH) < OLD)
PREPROCESS = step.Preprocess(
    torch.tensor((0.5, 0.4, 0.3), dtype=torch.float64), torch.tensor((0.2, 0.3, 0.4), dtype=torch.float64)
)


def draw_model(key: int, num_classes: int) -> tuple[dict, dict]:
    return tree.cast(model.init(key, "resnet20", num_classes), dtype=torch.float64)


def widen(params: dict) -> dict:
    return {**params, "classifier": classifier.pad(params["classifier"], WIDTH)}


def draw_batches(count: int, size: int = 12) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, size, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return [Batch(image, torch.randint(0, SEEN, (size,), generator=generator)) for image in pixels]


def make(options=SUM, *, name="wa", norm_batch=0, **changes):
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    method = replace(methods.make(name, options), **changes)
    run = step.make(method, optimiser, PREPROCESS, dtype=torch.float64, norm_batch=norm_batch)
    return run, lambda params, state: step.start(method, optimiser, params, state)


def normalised(batch: Batch) -> torch.Tensor:
    mean, std = (values.view(1, 3, 1, 1) for values in PREPROCESS)
    return (batch.images.permute(0, 3, 1, 2).double() / 255 - mean) / std


RATE = torch.tensor(0.1, dtype=torch.float64)


def test_three_steps_are_those_of_a_conventional_loop():
    """CE over the classes seen + 0.5 T^2 KL over the old logits, whose gradient is that of CE + 2 H at T = 2."""
    params, state = draw_model(1, SEEN)
    old_params, old_state = draw_model(2, OLD)
    run, start = make()
    train_state = start(widen(params), state)
    network = reference.load(20, params, state).train()
    teacher = reference.load(20, old_params, old_state).eval()
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for batch in draw_batches(3):
        train_state, measures = run(train_state, step.Teacher(widen(old_params), old_state), batch, CLASSES, RATE)
        images = normalised(batch)
        logits, _ = network(images)
        with torch.no_grad():
            soft = F.softmax(teacher(images)[0] / 2, dim=1)
        kl = F.kl_div(F.log_softmax(logits[:, :OLD] / 2, dim=1), soft, reduction="batchmean")
        sgd.zero_grad()
        (F.cross_entropy(logits, batch.labels) + 0.5 * 2**2 * kl).backward()
        sgd.step()
        assert measures.correct == (logits.argmax(1) == batch.labels).sum()
    ours = {**train_state.params, "classifier": classifier.head(train_state.params["classifier"], SEEN)}
    for path, leaf in reference.parameters(ours).items():
        torch.testing.assert_close(leaf, network.state_dict()[path], rtol=1e-6, atol=1e-8, msg=path)
    for path, leaf in reference.statistics(train_state.state).items():
        torch.testing.assert_close(leaf, network.state_dict()[path], rtol=1e-6, atol=1e-8, msg=path)


def test_rows_of_unseen_classes_stay_zero():
    """Neither weight decay nor momentum nor the masked loss may reach them."""
    params, state = draw_model(1, SEEN)
    run, start = make()
    train_state = start(widen(params), state)
    for batch in draw_batches(2):
        train_state, _ = run(train_state, step.Teacher(widen(params), state), batch, CLASSES, RATE)
    for head in (train_state.params["classifier"], train_state.opt_state["classifier"]):
        assert not head["weight"][SEEN:].any() and not head["bias"][SEEN:].any()
        assert head["weight"][:SEEN].any()


def test_a_step_changes_none_of_its_arguments():
    params, state = draw_model(1, SEEN)
    run, start = make()
    arguments = (start(widen(params), state), step.Teacher(widen(params), state), draw_batches(1)[0], CLASSES)
    before = tree.map(torch.clone, arguments)
    run(*arguments, RATE)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(arguments), tree.leaves(before), strict=True))


def test_what_is_not_trainable_stays_bit_identical():
    params, state = draw_model(1, SEEN)
    run, start = make(trainable=lambda path: path.startswith("classifier."))
    train_state = start(widen(params), state)
    assert list(train_state.opt_state) == ["classifier"]
    moved, _ = run(train_state, None, draw_batches(1)[0], CLASSES, RATE)
    tree.map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), moved.params["backbone"], params["backbone"]
    )
    assert not torch.equal(moved.params["classifier"]["weight"], train_state.params["classifier"]["weight"])


def test_clipping_holds_new_and_old_rows_at_zero_or_above():
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1)[0]
    for clip in (False, True):
        run, start = make(replace(SUM, clip_weights=clip))
        moved, _ = run(start(widen(params), state), None, batch, CLASSES, RATE)
        negative = (moved.params["classifier"]["weight"] < 0).any(dim=1)  # (C,)
        assert bool(negative[:OLD].any()) is bool(negative[OLD:SEEN].any()) is not clip


def test_norm_groups_average_their_gradients():
    """One process with two groups of 6 takes the mean step of two processes with 6 images each."""
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1)[0]
    run, start = make(norm_batch=6)
    together, _ = run(start(widen(params), state), None, batch, CLASSES, RATE)
    run, start = make()
    halves = [Batch(batch.images[part], batch.labels[part]) for part in (slice(0, 6), slice(6, 12))]
    alone = [run(start(widen(params), state), None, half, CLASSES, RATE)[0] for half in halves]
    tree.map(lambda a, b, c: torch.testing.assert_close(a, (b + c) / 2), together.params, *(t.params for t in alone))
    tree.map(lambda a, b, c: torch.testing.assert_close(a, (b + c) / 2), together.state, *(t.state for t in alone))


def test_dtype_is_that_of_the_convolutions_only():
    params, state = tree.cast(draw_model(1, SEEN), dtype=torch.float32)
    optimiser, method = optim.sgd(momentum=0.9), methods.make("wa", SUM)
    preprocess = step.Preprocess(*(values.float() for values in PREPROCESS))
    run = step.make(method, optimiser, preprocess, dtype=torch.bfloat16, norm_batch=0)
    batch = draw_batches(1)[0]
    train_state, measures = run(step.start(method, optimiser, widen(params), state), None, batch, CLASSES, RATE.float())
    assert {leaf.dtype for leaf in tree.leaves((train_state, measures.loss))} == {torch.float32}
    wide = step.make(method, optimiser, preprocess, dtype=torch.float32, norm_batch=0)
    _, expected = wide(step.start(method, optimiser, widen(params), state), None, batch, CLASSES, RATE.float())
    assert measures.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    assert measures.loss.item() != expected.loss.item()  # or bfloat16 was not used at all
