"""A timm model as trees, against the module itself."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import timm_like
import torch
from torch import nn

from cil_func import model, rng, tree
from cil_func.errors import ConfigError
from cil_func.networks import timm_skeleton


def module_like(name: str, params: dict, state: dict, **options) -> torch.nn.Module:
    module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    paths = tree.to_paths(params["backbone"][f"timm:{name}"]) | tree.to_paths(state["backbone"][f"timm:{name}"])
    module.load_state_dict(paths)
    return module


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_matches_the_module_in_both_modes(name):
    params, state = model.init(3, f"timm:{name}", 4)
    before = tree.map(torch.clone, state)
    module = module_like(name, params, state)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for train in (False, True):
        _, features, new_state = model.apply(params, state, x, train=train)
        torch.testing.assert_close(features, module.train(train)(x))
    moved = tree.to_paths(new_state["backbone"][f"timm:{name}"])
    for path, buffer in module.named_buffers():
        torch.testing.assert_close(moved[path], buffer)
    tree.map(torch.testing.assert_close, state, before)  # the argument was not written into


def test_gradients_match_backward():
    params, state = model.init(3, "timm:resnet10t", 4)
    module = module_like("resnet10t", params, state).train()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def loss(params, state):
        _, features, new_state = model.apply(params, state, x, train=True)
        return features.square().sum(), new_state

    grads, _ = torch.func.grad(loss, has_aux=True)(params, state)
    module(x).square().sum().backward()
    flat = tree.to_paths(grads["backbone"]["timm:resnet10t"])
    for path, parameter in module.named_parameters():
        torch.testing.assert_close(flat[path], parameter.grad, rtol=1e-3, atol=1e-4)


def test_key_decides_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (model.init(key, "timm:resnet10t", 2)[0] for key in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    pairs = list(zip(tree.leaves(first), tree.leaves(again), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(tree.leaves(first), tree.leaves(other), strict=True))


def test_unknown_model_is_one_line():
    with pytest.raises(ConfigError, match="no model of timm") as caught:
        model.init(0, "timm:resnet1000", 2)
    assert "\n" not in str(caught.value)


def test_the_nearest_names_are_proposed():
    with pytest.raises(ConfigError, match=r"near it: resnet50, resnet34, resnet26$"):
        model.init(0, "timm:resnet999", 2)
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224"):
        model.init(0, "timm:vit_tiny_patch16_244", 2)


# --- The size of the images


def draw_images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
@pytest.mark.parametrize("name", ["test_vit", "test_byobnet"])
def test_a_model_is_made_for_the_size_of_the_images(name, size):
    """A ViT has a position embedding for each patch; a network of convolutions doesn't mind."""
    params, state = model.init(3, f"timm:{name}", 4, image_size=size)
    options = {"img_size": size} if name == "test_vit" else {}
    module = module_like(name, params, state, **options).eval()
    images = draw_images(2, 3, *size)
    torch.testing.assert_close(model.apply(params, state, images, train=False)[1], module(images))


def test_images_of_another_size_than_the_parameters_were_made_for_are_refused():
    params, state = model.init(3, "timm:test_vit", 4, image_size=(16, 16))  # one patch: would be added to any number
    with pytest.raises(ValueError, match=r"images of 32x32 pixels need pos_embed .* another size"):
        model.apply(params, state, draw_images(2, 3, 32, 32), train=False)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("test_vit", (40, 32), r"height \(40\) should be divisible by patch size \(16\)"),
        ("test_vit", (8, 8), "divisible by patch size"),
        ("convit_tiny", (32, 64), "RuntimeError in its forward pass"),  # squares alone
        ("inception_v3", (32, 32), "Kernel size"),  # a network of convolutions that ends below one pixel
    ],
)
def test_a_size_that_a_model_can_not_take_is_found_without_arithmetic(name, size, reason):
    with pytest.raises(ValueError, match=reason):
        model.backbone(f"timm:{name}").draws(size)


# --- Draws


@pytest.fixture
def draws(monkeypatch) -> str:
    """The name of a model with every kind of layer that draws."""
    timm_like.install(monkeypatch)
    yield "timm:draws"
    timm_like.forget()


def test_nothing_draws_where_the_rates_are_0(draws):
    """Two calls are equal, they are those of the module without any such layer, and vmap has nothing to refuse."""
    params, state = model.init(3, draws, 4)
    images = draw_images(4, 3, 16, 16)
    torch.manual_seed(5)
    first, again = (model.apply(params, state, images, train=True)[1] for _ in range(2))
    assert torch.equal(first, again)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    torch.testing.assert_close(first, model.apply(params, state, images, train=False)[1])
    many = torch.func.vmap(lambda images: model.apply(params, state, images, train=True)[1])(images[None])
    torch.testing.assert_close(many[0], first)
    assert not model.backbone(draws).draws((16, 16))


@pytest.mark.parametrize("drop", [(0.5, 0.0), (0.0, 0.5)])
def test_what_a_rate_draws_follows_from_the_seed(draws, drop):
    params, state = model.init(3, draws, 4)
    images = draw_images(4, 3, 16, 16)
    drop = timm_skeleton.Drop(*drop)
    assert model.backbone(draws).draws((16, 16), drop)
    found = []
    for key in (1, 1, 2):
        before = torch.get_rng_state()
        with rng.seeded(key):
            found.append(model.apply(params, state, images, train=True, drop=drop)[1])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(
        model.apply(params, state, images, train=False, drop=drop)[1],
        model.apply(params, state, images, train=False)[1],
    )


def test_the_rates_are_those_of_timm():
    """Against the module itself, with the same draws."""
    params, state = model.init(3, "timm:test_vit2", 4, image_size=(32, 32))
    module = module_like("test_vit2", params, state, img_size=32, drop_rate=0.3, drop_path_rate=0.4).train()
    images = draw_images(8, 3, 32, 32)
    with rng.seeded(7):
        features = model.apply(params, state, images, train=True, drop=timm_skeleton.Drop(0.3, 0.4))[1]
    torch.manual_seed(7)
    torch.testing.assert_close(features, module(images))
    assert not torch.allclose(features, module.eval()(images))


def test_a_rate_that_a_model_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"model\.drop_path_rate: timm:vgg11 has no such rate; 0 fits"):
        model.backbone("timm:vgg11").draws((32, 32), timm_skeleton.Drop(0.0, 0.1))


def test_a_rate_that_changes_nothing_is_refused():
    """test_efficientnet takes the argument, and has no block that could be left out."""
    with pytest.raises(ConfigError, match=r"model\.drop_path_rate: 0\.1 changes nothing in timm:test_efficientnet"):
        model.backbone("timm:test_efficientnet").draws((32, 32), timm_skeleton.Drop(0.0, 0.1))


# --- First uses, transforms, threads


def compiled(function):
    """By the backend that compiles nothing: what is tested is the trace."""
    return torch.compile(function, fullgraph=True, backend="eager")


def exported(strict: bool, params: dict, state: dict, images: torch.Tensor) -> torch.Tensor:
    class Module(nn.Module):
        def forward(self, images):
            return model.apply(params, state, images, train=False)[1]

    return torch.export.export(Module(), (images,), strict=strict).module()(images)


USES = {
    "grad": lambda params, state, images: torch.func.grad_and_value(
        lambda params: (lambda found: (found[1].sum(), found[1]))(model.apply(params, state, images, train=False)),
        has_aux=True,
    )(params)[1][1],
    "vmap": lambda params, state, images: torch.func.vmap(
        lambda params: model.apply(params, state, images, train=False)[1]
    )(tree.map(lambda leaf: leaf[None], params))[0],
    "compile": lambda params, state, images: compiled(
        lambda params, state, images: model.apply(params, state, images, train=False)[1]
    )(params, state, images),
    "export": lambda *model_and_images: exported(False, *model_and_images),
}


@pytest.mark.parametrize(
    ("name", "use"), [("test_vit3", "grad"), ("test_vit3", "vmap"), *[("tiny", use) for use in USES]]
)
def test_the_first_use_of_a_model_may_be_in_a_transform(name, use, monkeypatch):
    if name == "tiny":
        timm_like.install(monkeypatch)
    params, state = model.init(3, f"timm:{name}", 4, image_size=(32, 32))
    images = draw_images(2, 3, 32, 32)
    timm_like.forget()
    found = USES[use](params, state, images)
    expected = module_like(name, params, state, img_size=32).eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    timm_like.forget()


def test_threads_with_models_of_their_own_do_not_meet():
    models = [model.init(key, "timm:test_resnet", 4) for key in (1, 2)]
    images = draw_images(2, 3, 32, 32)
    expected = [model.apply(*one, images, train=False)[1] for one in models]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: model.apply(*models[i % 2], images, train=False)[1], range(30)))
    assert [torch.equal(features, expected[i % 2]) for i, features in enumerate(found)] == [True] * 30


def test_an_unknown_tag_is_one_line():
    with pytest.raises(ConfigError, match=r'^model.backbone: "timm:resnet18.nonsense": .* leave out the tag$'):
        model.init(0, "timm:resnet18.nonsense", 2)


@pytest.mark.parametrize("name", ["resnet8", "timm:test_resnet"])
def test_a_model_is_float32_whatever_torchs_default_is(name):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made = model.init(0, name, 2)
    finally:
        torch.set_default_dtype(before)
    assert {leaf.dtype for leaf in tree.leaves(made) if leaf.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet8", "timm:test_resnet"])
def test_a_batch_of_no_images_has_no_statistics(name):
    params, state = model.init(0, name, 2)
    with pytest.raises(ValueError, match=r"^apply: a batch of no images; train mode needs at least one$"):
        model.apply(params, state, torch.zeros(0, 3, 32, 32), train=True)
    assert model.apply(params, state, torch.zeros(0, 3, 32, 32), train=False)[0].shape == (0, 2)
