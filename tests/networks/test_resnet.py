"""The functional ResNet against the same network written with torch.nn, in float64."""

import pytest
import reference
import torch

from cil_func import model, tree
from cil_func.networks import layers

NUM_CLASSES = 7


def draw(depth: int) -> tuple[dict, dict]:
    """Returns a model in float64 whose batch norms don't have their trivial initial values."""
    params, state = tree.cast(model.init(1, f"resnet{depth}", NUM_CLASSES), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    jitter = lambda leaf: leaf + 0.1 * torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype)  # noqa: E731
    return tree.map(jitter, params), tree.map(jitter, state)


def images(count: int = 6, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
@pytest.mark.parametrize("train", [True, False])
def test_outputs_gradients_and_statistics_match(depth, train):
    params, state = draw(depth)
    network = reference.load(depth, params, state).train(train)
    x = images()
    cotangent = torch.randn(6, NUM_CLASSES, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss(params):
        logits, features, new_state = model.apply(params, state, x, train=train)
        return (logits * cotangent).sum(), (logits, features, new_state)

    grads, (logits, features, new_state) = torch.func.grad(loss, has_aux=True)(params)
    expected_logits, expected_features = network(x)
    (expected_logits * cotangent).sum().backward()

    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(features, expected_features)
    flat = reference.parameters(grads)
    expected = {path: parameter.grad for path, parameter in network.named_parameters()}
    assert flat.keys() == expected.keys()
    for path, grad in flat.items():
        torch.testing.assert_close(grad, expected[path], msg=lambda text, path=path: f"{path}: {text}")
    moved = dict(network.named_buffers())
    for path, leaf in reference.statistics(new_state).items():
        torch.testing.assert_close(leaf, moved[path])


@pytest.mark.parametrize("size", [8, 15, 32])
def test_any_image_size_pools_to_the_feature_width(size):
    params, state = model.init(0, "resnet20", 3)
    logits, features, _ = model.apply(params, state, images(2, size).float(), train=False)
    assert logits.shape == (2, 3) and features.shape == (2, 64)


@pytest.mark.parametrize(("count", "norm_batch"), [(8, 4), (6, 3), (10, 2), (4, 8)])
def test_norm_groups_are_separate_batches(count, norm_batch):
    """Compared with what each group computes alone. Running statistics are the mean over groups."""
    params, state = draw(20)
    x = images(count)
    logits, _, new_state = model.apply(params, state, x, train=True, norm_batch=norm_batch)
    alone = [model.apply(params, state, part, train=True) for part in x.split(norm_batch)]
    torch.testing.assert_close(logits, torch.cat([outputs[0] for outputs in alone]))
    expected = tree.map(lambda *leaves: sum(leaves) / len(leaves), *(outputs[2] for outputs in alone))
    tree.map(torch.testing.assert_close, new_state, expected)


@pytest.mark.parametrize(("rows", "norm_batch"), [
    ([0, 1, 2, 3, 4], 0), ([0, 2, 5, 7], 0), ([0, 1, 2, 4], 4), ([1, 3], 4), ([0, 1, 2, 3], 4), ([4], 2),
])  # fmt: skip
def test_padding_reaches_no_statistic(rows, norm_batch):
    """8 images, of which `rows` are valid: as if each group had its valid images alone, weighted by their number."""
    params, state = draw(20)
    x, size = images(8), norm_batch or 8
    valid = torch.zeros(8, dtype=torch.float64).index_fill(0, torch.tensor(rows), 1)
    logits, _, new_state = model.apply(params, state, x, train=True, norm_batch=norm_batch, valid=valid)
    groups = [[row for row in rows if row // size == group] for group in range(8 // size)]
    alone = [(len(group) / len(rows), group, model.apply(params, state, x[group], train=True))
             for group in groups if group]  # fmt: skip
    for _, group, outputs in alone:
        torch.testing.assert_close(logits[group], outputs[0])
    expected = tree.map(torch.zeros_like, state)
    for share, _, (_, _, moved) in alone:
        expected = tree.map(lambda sum_, leaf, share=share: sum_ + share * leaf, expected, moved)
    tree.map(torch.testing.assert_close, new_state, expected)
    assert logits.isfinite().all()
    narrow = tree.cast((params, state, x, valid), dtype=torch.float32)
    logits, _, new_state = model.apply(*narrow[:3], train=True, norm_batch=norm_batch, valid=narrow[3])
    assert all(leaf.isfinite().all() for leaf in (logits, *tree.leaves(new_state)))


def test_batch_norm_of_the_images_alone_is_torchs_and_padding_has_no_gradient():
    """A group of 4 of which 3 are images, a whole one, and one of padding: values, statistics and gradients."""
    generator = torch.Generator().manual_seed(5)
    params, state = tree.map(lambda leaf: torch.rand(leaf.shape, generator=generator).double(), layers.norm_init(2))
    x = torch.randn(12, 2, 3, 3, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    valid = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=torch.float64)

    def ours(params, x):
        y, moved = layers.batch_norm(params, state, x, norm_batch=4, valid=valid)
        return (y * cotangent).sum(), (y, moved)

    (grads, slope), (y, moved) = torch.func.grad(ours, argnums=(0, 1), has_aux=True)(params, x)
    assert not y[valid == 0].any() and not slope[valid == 0].any()
    totals = {"mean": 0.0, "var": 0.0, "weight": 0.0, "bias": 0.0}
    for rows in ([0, 1, 3], [4, 5, 6, 7]):
        norm = torch.nn.BatchNorm2d(2, dtype=torch.float64)
        norm.load_state_dict(params | {"running_mean": state["mean"], "running_var": state["var"]}, strict=False)
        part = x[rows].clone().requires_grad_()
        expected = norm(part)
        (expected * cotangent[rows]).sum().backward()
        torch.testing.assert_close(y[rows], expected)
        torch.testing.assert_close(slope[rows], part.grad)
        share = len(rows) / 7
        totals["mean"] += share * norm.running_mean
        totals["var"] += share * norm.running_var
        totals["weight"] += norm.weight.grad
        totals["bias"] += norm.bias.grad
    for name, leaf in (moved | grads).items():
        torch.testing.assert_close(leaf, totals[name])


@pytest.mark.parametrize("valid", [None, [1.0, 1, 1, 0, 1, 1]])
@pytest.mark.parametrize("norm_batch", [0, 3])
def test_statistics_far_from_zero_lose_no_digits(norm_batch, valid):
    """Mean 1000, deviation 1: in float32 nothing of the variance would be left in a difference of two squares."""
    x = 1000 + torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    learned = layers.norm_init(4)
    valid = None if valid is None else torch.tensor(valid)
    narrow = layers.batch_norm(*learned, x, norm_batch=norm_batch, valid=valid)
    arguments = tree.cast((*learned, x), dtype=torch.float64)
    wide = layers.batch_norm(*arguments, norm_batch=norm_batch, valid=None if valid is None else valid.double())
    tree.map(lambda a, b: torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=3e-4), narrow, wide)


def test_groups_that_do_not_divide_are_refused():
    params, state = draw(20)
    with pytest.raises(ValueError, match="7 images in groups of 3"):
        model.apply(params, state, images(7), train=True, norm_batch=3)


def test_eval_returns_the_state_as_it_was():
    params, state = draw(20)
    _, _, new_state = model.apply(params, state, images(), train=False)
    assert all(a is b for a, b in zip(tree.leaves(state), tree.leaves(new_state), strict=True))


def test_bfloat16_images_give_wide_features_and_unbiased_statistics():
    """Convolutions in bfloat16, everything that is summed up in float32: within 2 % of float64."""
    params, state = draw(20)
    x = images(32)
    wide = model.apply(params, state, x, train=True)
    narrow = tree.cast((params, state), dtype=torch.float32)
    logits, features, new_state = model.apply(*narrow, x.bfloat16(), train=True)
    assert logits.dtype == features.dtype == torch.float32
    assert all(leaf.dtype == torch.float32 for leaf in tree.leaves(new_state))
    assert (features - wide[1]).norm() / wide[1].norm() < 0.02
