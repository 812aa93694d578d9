"""Backbones in low precision: whoever writes one need not think of it."""

import pytest
import torch
import torch.nn.functional as F

from cil_func import tree
from cil_func.networks import backbones
from cil_func.networks.backbones import Backbone


def apply(params, state, images, *, train, taps=None, final_relu=True):
    maps = F.conv2d(images, params["weight"])
    return F.linear(maps.flatten(1), params["linear"]), {} if taps is None else taps([maps]), state


def own(apply) -> tuple[Backbone, dict]:
    generator = torch.Generator().manual_seed(0)
    params = {"weight": torch.randn(4, 3, 3, 3, generator=generator), "linear": torch.randn(5, 16, generator=generator)}
    return Backbone(lambda key, image_size=None: (params, {}), apply, lambda: 5, has_maps=True), params


IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def run(net, params, images):
    taps = lambda maps: {"map": maps[0]}  # noqa: E731
    return backbones.run({"own": params}, {"backbone": {"own": {}}}, images, train=True, net=net, taps=taps)


def test_layers_in_low_precision_with_features_and_maps_as_precise_as_the_weights():
    net, params = own(apply)
    features, aux, _ = run(net, params, IMAGES.bfloat16())
    low = {name: leaf.bfloat16() for name, leaf in params.items()}
    expected, maps, _ = apply(low, {}, IMAGES.bfloat16(), train=True, taps=lambda maps: {"map": maps[0]})
    assert features.dtype == aux["map"].dtype == torch.float32
    assert torch.equal(features, expected.float()) and torch.equal(aux["map"], maps["map"].float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_images_of_the_precision_of_the_weights(dtype):
    net, params = own(apply)
    params = tree.cast(params, dtype=dtype)
    features, aux, _ = run(net, params, IMAGES.to(dtype))
    expected, _, _ = apply(params, {}, IMAGES.to(dtype), train=True)
    assert features.dtype == aux["map"].dtype == dtype and torch.equal(features, expected)


def test_one_that_lowers_its_layers_itself_is_left_to_it():
    seen = []

    def itself(params, state, images, *, train, **more):
        seen.append(torch.is_autocast_enabled("cpu"))
        return apply({name: leaf.to(images.dtype) for name, leaf in params.items()}, state, images, train=train)

    net, params = own(itself)
    for lowers in (True, False):
        run(Backbone(net.init, net.apply, net.feature_dim, has_maps=True, lowers=lowers), params, IMAGES.bfloat16())
    assert seen == [False, True]


def test_a_compiled_gradient():
    net, params = own(apply)

    def gradient(params, images):
        return torch.func.grad(lambda params: run(net, params, images)[0].square().sum())(params)

    images = IMAGES.bfloat16()
    expected = gradient(params, images)
    found = torch.compile(gradient, backend="aot_eager", fullgraph=True)(params, images)
    assert expected["weight"].dtype == torch.float32 and expected["weight"].any()
    assert all(map(torch.equal, tree.leaves(found), tree.leaves(expected)))
