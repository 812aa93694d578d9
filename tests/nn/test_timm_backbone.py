"""A timm model as trees, against the module itself."""

import pytest
import timm
import torch

from cil_func import model, tree
from cil_func.errors import ConfigError


def module_like(name: str, params: dict, state: dict) -> torch.nn.Module:
    module = timm.create_model(name, pretrained=False, num_classes=0)
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
