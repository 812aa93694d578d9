"""The step against a conventional loop: torch.nn, backward(), torch.optim.SGD, on sliced logits."""

from dataclasses import replace
from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F

from cil_func import classifier, methods, model, optim, tree
from cil_func.data.batches import Batch
from cil_func.networks.network import Network
from cil_func.training import step, step_state
from cil_func.training.preprocess import Preprocess

WIDTH, SEEN, OLD = 9, 6, 4
NETWORK = Network("resnet20", WIDTH, 3)
SUM = methods.Options(kd_combination="sum", kd_weight=2.0)
CLASSES = methods.Classes(seen=torch.arange(WIDTH) < SEEN, old=torch.arange(WIDTH) < OLD)
PREPROCESS = Preprocess(
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


def make(options=SUM, *, name="wa", norm_batch=0, padded=False, accumulate=1, dtype=torch.float64, **changes):
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    stage = replace(methods.make(name, options).main, **changes)
    preprocess = tree.cast(PREPROCESS, dtype=dtype)
    parts = step.make(stage, NETWORK, optimiser, preprocess, dtype=dtype, norm_batch=norm_batch, padded=padded)
    run = step.join(parts, accumulate=accumulate)
    return run, lambda params, state: step_state.start(stage, optimiser, params, state)


def normalised(batch: Batch) -> torch.Tensor:
    mean, std = (values.view(1, 3, 1, 1) for values in PREPROCESS)
    return (batch.images.permute(0, 3, 1, 2).double() / 255 - mean) / std


def taught_by(params: dict, state: dict, batch: Batch) -> methods.Outputs:
    """What a model says of a batch, at full width."""
    return methods.Outputs(*model.apply(widen(params), state, normalised(batch), train=False)[:2])


def assert_close(mine, theirs):
    tree.map(torch.testing.assert_close, mine, theirs)


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
        images = normalised(batch)
        logits, _ = network(images)
        with torch.no_grad():
            old_logits, old_features = teacher(images)
        soft = F.softmax(old_logits / 2, dim=1)
        taught = methods.Outputs(F.pad(old_logits, (0, WIDTH - OLD), value=123.0), old_features)
        train_state, measures = run(train_state, taught, batch, CLASSES, RATE)
        kl = F.kl_div(F.log_softmax(logits[:, :OLD] / 2, dim=1), soft, reduction="batchmean")
        sgd.zero_grad()
        (F.cross_entropy(logits, batch.labels) + 0.5 * 2**2 * kl).backward()
        sgd.step()
        # the sum over 12 images of CE + 2 H, which is KL and the teacher's own entropy
        loss = F.cross_entropy(logits, batch.labels) + 2 * (kl - (soft * soft.log()).sum(1).mean())
        assert measures.loss.item() == pytest.approx(12 * loss.item(), rel=1e-9)
        assert measures.correct == (logits.argmax(1) == batch.labels).sum()
    ours = {**train_state.params, "classifier": classifier.head(train_state.params["classifier"], SEEN)}
    for path, leaf in reference.parameters(ours).items():
        torch.testing.assert_close(leaf, network.state_dict()[path], rtol=1e-6, atol=1e-8, msg=path)
    for path, leaf in reference.statistics(train_state.state).items():
        torch.testing.assert_close(leaf, network.state_dict()[path], rtol=1e-6, atol=1e-8, msg=path)


def test_the_simple_step_and_the_real_one_give_the_same_weights():
    params, state = draw_model(1, SEEN)
    run, start = make()
    train_state = start(widen(params), state)
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    preprocess = partial(PREPROCESS, dtype=torch.float64)
    simple = step.simple_step(NETWORK, methods.make("wa", SUM).loss, optimiser, preprocess)
    found = widen(params), state, optimiser.init(widen(params))
    for batch in draw_batches(3):
        taught = taught_by(params, state, batch)
        train_state, _ = run(train_state, taught, batch, CLASSES, RATE)
        found = simple(*found, taught, batch, CLASSES, RATE)
    assert_close(found, tuple(train_state[:3]))


@pytest.mark.parametrize("padded", [False, True])
def test_accumulated_parts_are_the_large_batch(padded):
    """12 images in norm groups of 4, and with a fourth group that is all padding: parts of one or two groups."""
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1)[0]
    inputs = step_state.pad(taught_by(params, state, batch), batch, 4 if padded else 0)
    results = []
    for accumulate in (1, 2, 4) if padded else (1, 3):
        run, start = make(norm_batch=4, padded=padded, accumulate=accumulate)
        results.append(run(start(widen(params), state), *inputs, CLASSES, RATE))
    for other in results[1:]:
        assert_close(other, results[0])


@pytest.mark.parametrize(("images", "accumulate"), [(12, 4), (12, 2), (10, 2), (10, 3), (9, 8)])
def test_parts_are_cut_between_norm_groups(images, accumulate):
    """More parts than groups, groups that the parts don't divide, a last group that is short."""
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1, images)[0]
    results = []
    for parts in (1, accumulate):
        run, start = make(norm_batch=4, accumulate=parts)
        results.append(run(start(widen(params), state), taught_by(params, state, batch), batch, CLASSES, RATE))
    assert_close(*results)


def test_a_step_measures_the_norms_of_gradient_weights_and_update():
    params, state = draw_model(1, SEEN)
    run, start = make()
    batch = draw_batches(1)[0]
    before = start(widen(params), state)
    after, measures = run(before, taught_by(params, state, batch), batch, CLASSES, RATE)
    weights, moved = (torch.cat([leaf.flatten() for leaf in tree.leaves(each.params)]) for each in (before, after))
    torch.testing.assert_close(measures.weights, weights.norm())
    torch.testing.assert_close(measures.update, (moved - weights).norm())
    gradient = (weights - moved) / 0.1 - 5e-4 * weights  # the first velocity is gradient + decay * weight
    torch.testing.assert_close(measures.gradient, gradient.norm())


def test_a_stage_in_eval_mode_leaves_the_statistics_and_a_clamp_bounds_the_gradient():
    params, state = draw_model(1, SEEN)
    run, start = make(norm="eval", clamp=1e-4)
    batch, before = draw_batches(1)[0], start(widen(params), state)
    after, measures = run(before, taught_by(params, state, batch), batch, CLASSES, RATE)
    assert all(map(torch.equal, tree.leaves(after.state), tree.leaves(before.state)))
    count = sum(leaf.numel() for leaf in tree.leaves(before.params))
    assert 0 < measures.gradient <= 1e-4 * count**0.5


def test_a_penalty_adds_its_gradient_and_not_its_value_and_old_rows_stay():
    """penalty = 3 sum of the classifier's biases: their gradient is 3 more."""
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1)[0]
    found = []
    for penalty in (None, lambda params, extra, classes: extra["slope"] * params["classifier"]["bias"].sum()):
        run, start = make(penalty=penalty, rows_trained="new")
        begun = start(widen(params), state)._replace(extra={"slope": torch.tensor(3.0, dtype=torch.float64)})
        found.append(run(begun, taught_by(params, state, batch), batch, CLASSES, RATE))
    (plain, loss), (held, same_loss) = found
    assert loss.loss == same_loss.loss and held.extra["slope"] == 3
    moved = held.params["classifier"]["bias"] - plain.params["classifier"]["bias"]
    expected = [0.0] * OLD + [-0.3] * (SEEN - OLD) + [0.0] * (WIDTH - SEEN)
    torch.testing.assert_close(moved, torch.tensor(expected, dtype=torch.float64))
    for each in (plain, held):
        assert torch.equal(each.params["classifier"]["weight"][:OLD], params["classifier"]["weight"][:OLD])


def test_rows_of_unseen_classes_stay_zero():
    """Neither weight decay nor momentum nor the masked loss may reach them."""
    params, state = draw_model(1, SEEN)
    run, start = make()
    train_state = start(widen(params), state)
    for batch in draw_batches(2):
        train_state, _ = run(train_state, taught_by(params, state, batch), batch, CLASSES, RATE)
    for head in (train_state.params["classifier"], train_state.opt_state["velocity"]["classifier"]):
        assert not head["weight"][SEEN:].any() and not head["bias"][SEEN:].any()
        assert head["weight"][:SEEN].any()


@pytest.mark.parametrize(("norm_batch", "missing"), [(0, 0), (5, 0), (5, 3)])  # padded not at all, inside, outside
def test_a_step_changes_none_of_its_arguments(norm_batch, missing):
    params, state = draw_model(1, SEEN)
    run, start = make(norm_batch=norm_batch, padded=missing > 0)
    batch = draw_batches(1)[0]
    inputs = step_state.pad(taught_by(params, state, batch), batch, missing)
    arguments = (start(widen(params), state), *inputs, CLASSES, RATE)
    before = tree.map(torch.clone, arguments)
    run(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(arguments), tree.leaves(before), strict=True))


def test_what_is_not_trainable_stays_bit_identical():
    params, state = draw_model(1, SEEN)
    run, start = make(trainable=lambda path: path.startswith("classifier."))
    train_state = start(widen(params), state)
    assert list(train_state.opt_state["velocity"]) == ["classifier"]
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
    parts = [Batch(batch.images[part], batch.labels[part]) for part in (slice(0, 6), slice(6, 12))]
    alone = [run(start(widen(params), state), None, half, CLASSES, RATE)[0] for half in parts]
    tree.map(lambda a, b, c: torch.testing.assert_close(a, (b + c) / 2), together.params, *(t.params for t in alone))
    tree.map(lambda a, b, c: torch.testing.assert_close(a, (b + c) / 2), together.state, *(t.state for t in alone))


def test_before_anything_is_known_a_taught_zero_changes_no_bit():
    """Phase 0: one graph serves it and the phases with a teacher, and computes what replay does, CE alone."""
    params, state = draw_model(1, SEEN)
    batch, first = draw_batches(1)[0], methods.Classes(CLASSES.seen, torch.zeros(WIDTH, dtype=torch.bool))
    zeros = methods.Outputs(torch.zeros(12, WIDTH).double(), torch.zeros(12, 64).double())
    run, start = make(name="replay")
    expected = run(start(widen(params), state), None, batch, first, RATE)
    for name, options in (
        ("wa", SUM), ("wa", methods.Options()), ("wa", methods.Options(kd_weight=0.3)), ("lwf", methods.Options()),
    ):  # fmt: skip
        run, start = make(options, name=name)
        for outputs in (None, zeros):
            found = run(start(widen(params), state), outputs, batch, first, RATE)
            tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), found, expected)


@pytest.mark.parametrize(("size", "total", "norm_batch"), [
    (12, 16, 0), (12, 17, 0), (8, 12, 4), (6, 12, 4), (4, 12, 4), (2, 12, 6), (12, 12, 4),
])  # fmt: skip
def test_padding_counts_nowhere(size, total, norm_batch):
    """Rows labelled -1, whatever their pixels: half a group of them, a whole one, two."""
    params, state = draw_model(1, SEEN)
    whole, junk = draw_batches(2, 17)
    batch = Batch(whole.images[:size], whole.labels[:size])
    images = torch.cat([batch.images, junk.images[: total - size]])
    labels = torch.cat([batch.labels, torch.full((total - size,), step_state.PADDING)])
    run, start = make(norm_batch=norm_batch, padded=True)
    taught = taught_by(params, state, Batch(images, labels))
    padded = run(start(widen(params), state), taught, Batch(images, labels), CLASSES, RATE)
    run, _ = make(norm_batch=norm_batch)
    taught = tree.map(lambda leaf: leaf[:size], taught)
    assert_close(padded, run(start(widen(params), state), taught, batch, CLASSES, RATE))


def test_a_group_of_padding_alone_stays_finite_in_float32():
    """Its variance is 0, so normalising would multiply it by 316 a layer: beyond float32, and gradients NaN."""
    learned = tree.cast(draw_model(1, SEEN), dtype=torch.float32)
    params, state = widen(learned[0]), learned[1]
    batch, rate = draw_batches(1, 5)[0], RATE.float()
    run, start = make(norm_batch=4, dtype=torch.float32)
    expected = run(start(params, state), None, batch, CLASSES, rate)
    run, start = make(norm_batch=4, padded=True, dtype=torch.float32)
    _, filled = step_state.pad(None, batch, 15)  # groups of 4, 1, 0, 0 and 0 images
    found = run(start(params, state), None, filled, CLASSES, rate)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4), found, expected)


def test_a_short_last_group_weighs_as_much_as_its_images():
    """9 images in groups of 6: a group of 6 and one of 3, each with statistics of its own."""
    params, state = draw_model(1, SEEN)
    batch = draw_batches(1, 9)[0]
    run, start = make(norm_batch=6)
    together, measures = run(start(widen(params), state), None, batch, CLASSES, RATE)
    run, start = make()
    parts = [Batch(batch.images[part], batch.labels[part]) for part in (slice(0, 6), slice(6, 9))]
    alone = [run(start(widen(params), state), None, part, CLASSES, RATE) for part in parts]
    mean = tree.map(lambda a, b: (2 * a + b) / 3, alone[0][0][:3], alone[1][0][:3])
    assert_close(together[:3], mean)
    assert_close(measures[:2], tree.map(torch.add, alone[0][1][:2], alone[1][1][:2]))  # norms are no sums


def test_pad_fills_up_with_black_images_that_nobody_knows():
    batch, taught = draw_batches(1, 3)[0], methods.Outputs(torch.ones(3, WIDTH), torch.ones(3, 64))
    assert step_state.pad(taught, batch, 0) == (taught, batch)
    outputs, padded = step_state.pad(taught, batch, 2)
    assert padded.images.shape == (5, 8, 8, 3) and padded.images.dtype == torch.uint8
    assert torch.equal(padded.images[:3], batch.images) and not padded.images[3:].any()
    assert padded.labels.tolist() == [*batch.labels.tolist(), -1, -1]
    assert outputs.logits.sum() == 3 * WIDTH and outputs.features.shape == (5, 64)
    assert step_state.pad(None, batch, 2)[0] is None


def test_dtype_is_that_of_the_convolutions_only():
    params, state = tree.cast(draw_model(1, SEEN), dtype=torch.float32)
    optimiser, stage = optim.sgd(momentum=0.9), methods.make("wa", SUM).main
    preprocess = Preprocess(*(values.float() for values in PREPROCESS))
    run = step.join(step.make(stage, NETWORK, optimiser, preprocess, dtype=torch.bfloat16, norm_batch=0))
    batch = draw_batches(1)[0]
    start = step_state.start(stage, optimiser, widen(params), state)
    train_state, measures = run(start, None, batch, CLASSES, RATE.float())
    assert {leaf.dtype for leaf in tree.leaves((train_state[:3], measures.loss))} == {torch.float32}
    wide = step.join(step.make(stage, NETWORK, optimiser, preprocess, dtype=torch.float32, norm_batch=0))
    _, expected = wide(step_state.start(stage, optimiser, widen(params), state), None, batch, CLASSES, RATE.float())
    assert measures.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    assert measures.loss.item() != expected.loss.item()  # or bfloat16 was not used at all


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "weight", "gradient", "statistics"])
def test_from_a_step_that_is_not_finite_on_nothing_changes(where, value):
    """Whatever was not finite, and although the next batch is sound again."""
    params, state = draw_model(1, SEEN)
    batches = draw_batches(3)
    run, start = make(loss=broken_loss(where, value)) if where in ("loss", "gradient") else make()
    good = start(widen(params), state)
    if where == "weight":
        good.params["backbone"]["resnet20"]["stage1"]["block0"]["conv1"]["weight"][3, 2, 1, 0] = value
    if where == "statistics":
        good.state["backbone"]["resnet20"]["stem"]["norm"]["mean"][4] = value
    before = tree.map(torch.clone, good)
    first, _ = run(good, None, batches[0], CLASSES, RATE)
    second, _ = run(first, None, batches[1], CLASSES, RATE)
    for found in (first, second):
        assert all(map(same_bits, tree.leaves(found[:3]), tree.leaves(before[:3])))
    assert second.health.steps == 2 and second.health.failed_step == 0
    name = step_state.entry_name(second, int(second.health.entry), methods.make("wa", SUM).main)
    assert name == {
        "loss": "the loss",
        "gradient": "the gradient of backbone.resnet20.stem.conv.weight",
        "weight": "the gradient of backbone.resnet20.stem.conv.weight",
        "statistics": "the statistics backbone.resnet20.stem.norm.mean",
    }[where]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int64), b.view(torch.int64))


def broken_loss(where: str, value: float):
    """A loss whose value, or whose gradient, isn't finite."""
    sound = methods.make("wa", SUM).loss

    def loss(student, taught, targets, classes):
        found = sound(student, taught, targets, classes)
        if where == "loss":
            return found + value
        # 0, with the gradient of a square root at 0
        return found + (student.logits[:, :1] * 0).abs().sqrt().sum()

    return loss
