"""The forward function as strangers use it: under torch.func, in part, and with what can't be right."""

import pytest
import torch

from cil_func import model, tree


@pytest.fixture(scope="module")
def small() -> tuple[dict, dict, torch.Tensor]:
    params, state = model.init(0, "resnet20", 5)
    return params, state, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_init_follows_from_the_key():
    first, again, other = (model.init(key, "resnet20", 5) for key in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(first), tree.leaves(again), strict=True))
    weight = "backbone.resnet20.stage1.block2.conv1.weight"
    assert not torch.equal(tree.to_paths(first[0])[weight], tree.to_paths(other[0])[weight])


def test_published_parameter_counts():
    """He et al. 2016, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M, 1.7 M parameters for 10 classes."""
    counts = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    for depth, millions in counts.items():
        params, _ = model.init(0, f"resnet{depth}", 10)
        assert tree.size(params) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_tree_with_sorted_keys_is_the_same_network():
    """Blocks are found by number: a file may hold block10 before block2."""
    params, state = model.init(0, "resnet110", 5)
    images = torch.randn(2, 3, 8, 8)
    by_name = lambda tree_: tree.from_paths(dict(sorted(tree.to_paths(tree_).items())))  # noqa: E731
    logits, _, _ = model.apply(params, state, images, train=False)
    again, _, _ = model.apply(by_name(params), by_name(state), images, train=False)
    assert torch.equal(logits, again)


def test_freezing_is_a_choice_of_what_is_differentiated(small):
    params, state, images = small
    chosen, frozen = tree.partition(params, lambda path: path.startswith("classifier."))

    def loss(part, base=frozen):
        return model.apply(tree.merge(part, base), state, images, train=True)[0].square().sum()

    grads = torch.func.grad(loss)(chosen)
    assert list(grads) == ["classifier"]
    whole = torch.func.grad(lambda params: loss(params, {}))(params)
    torch.testing.assert_close(grads["classifier"], whole["classifier"])


def test_vmap_over_models_is_a_loop_over_models(small):
    _, _, images = small
    models = [model.init(key, "resnet20", 5) for key in range(3)]
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *models)
    logits = torch.func.vmap(lambda m: model.apply(*m, images, train=True)[0])(stacked)
    expected = torch.stack([model.apply(*m, images, train=True)[0] for m in models])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_wrong_names_and_shapes_say_what_fits(small):
    params, state, images = small
    with pytest.raises(ValueError, match="resnet20"):
        model.init(0, "resnet21", 5)
    for wrong in (images[0], images[:, :1]):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            model.apply(params, state, wrong, train=False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("backbone", ["resnet20", "timm:resnet10t"])
def test_images_that_are_not_floating_point_are_refused(backbone, dtype):
    """Pixels of 0 to 255 gave features far from any training image, and an answer that is the bias."""
    params, state = model.init(0, backbone, 5)
    pixels = torch.ones(2, 3, 32, 32, dtype=dtype)
    for train in (True, False):
        with pytest.raises(ValueError, match=rf"apply: images are {dtype}; .*divide pixels by 255, then normalise"):
            model.apply(params, state, pixels, train=train)


def test_a_timm_name_with_a_tag_is_that_architecture():
    """The tag names pretrained weights, which are never loaded; a dot can't be in a path."""
    tagged, plain = (model.init(0, f"timm:{name}", 3) for name in ("resnet10t.c3_in1k", "resnet10t"))
    assert tree.to_paths(tagged[0]).keys() == tree.to_paths(plain[0]).keys()
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(model.apply(*tagged, images, train=False)[0], model.apply(*plain, images, train=False)[0])
