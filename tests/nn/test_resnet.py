"""The functional ResNet against the same network written with torch.nn, in float64."""

import pytest
import reference
import torch

from cil_func import model, tree

NUM_CLASSES = 7


def draw(depth: int) -> tuple[dict, dict]:
    """A model in float64 whose norms are not at their trivial start."""
    params, state = tree.cast(model.init(1, f"resnet{depth}", NUM_CLASSES), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    jitter = lambda leaf: leaf + 0.1 * torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype)  # noqa: E731
    return tree.map(jitter, params), tree.map(jitter, state)


def images(count: int = 6, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
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


@pytest.mark.parametrize(("count", "norm_batch"), [(8, 4), (7, 3), (5, 4), (4, 8)])
def test_norm_groups_are_separate_batches(count, norm_batch):
    """What each group computes alone is the oracle; running statistics are the mean weighted by size."""
    params, state = draw(20)
    x = images(count)
    logits, _, new_state = model.apply(params, state, x, train=True, norm_batch=norm_batch)
    alone = [(len(part), model.apply(params, state, part, train=True)) for part in x.split(norm_batch)]
    torch.testing.assert_close(logits, torch.cat([outputs[0] for _, outputs in alone]))
    expected = tree.map(torch.zeros_like, state)
    for size, (_, _, moved) in alone:
        expected = tree.map(lambda sum_, leaf, size=size: sum_ + leaf * size / count, expected, moved)
    tree.map(torch.testing.assert_close, new_state, expected)


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
