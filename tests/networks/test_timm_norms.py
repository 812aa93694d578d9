"""Batch norm of timm's models over groups and with padding: against the modules themselves on each group."""

import pytest
import timm
import torch

from cil_func import tree
from cil_func.networks import backbones, timm_norms

NAMES = ["test_resnet", "test_efficientnet", "test_byobnet"]  # plain batch norm; with an activation in it; both


def setting(name: str):
    """(backbone, params, state, module, 6 images), in float64."""
    net = backbones.backbone(f"timm:{name}")
    params, state = tree.cast(net.init(3), dtype=torch.float64)
    module = timm.create_model(name, pretrained=False, num_classes=0).double()
    module.load_state_dict(tree.to_paths(params) | tree.to_paths(state))
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return net, params, state, module, images


def by_module(module, groups):
    """Features of all groups, gradients of the sum of their squares, and buffers: means weighted by the sizes."""
    start = {path: leaf.clone() for path, leaf in module.state_dict().items()}
    features, count = [], sum(map(len, groups))
    moved = {path: torch.zeros_like(leaf) for path, leaf in module.named_buffers() if leaf.is_floating_point()}
    module.train().zero_grad()
    for group in groups:
        module.load_state_dict(start)
        features.append(module(group))
        features[-1].square().sum().backward()
        for path, leaf in module.named_buffers():
            if path in moved:
                moved[path] += leaf * len(group) / count
    return torch.cat(features), {path: leaf.grad for path, leaf in module.named_parameters()}, moved


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("norm_batch", "padding"), [(0, 3), (4, 2), (3, 0), (3, 3)])
def test_groups_and_padding_are_the_module_on_each_group(name, norm_batch, padding):
    net, params, state, module, images = setting(name)
    groups = images.split(norm_batch or len(images))
    expected, grads, moved = by_module(module, groups)
    junk = 100 * torch.randn(padding, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    filled = torch.cat([images, junk])
    valid = (torch.arange(len(filled)) < len(images)).double() if padding else None

    def loss(params, state):
        features, _, new = net.apply(params, state, filled, train=True, norm_batch=norm_batch, valid=valid)
        return features[: len(images)].square().sum(), (features, new)

    found, (features, new) = torch.func.grad(loss, has_aux=True)(params, state)
    torch.testing.assert_close(features[: len(images)], expected, rtol=1e-8, atol=1e-9)
    flat = tree.to_paths(found)
    for path, leaf in grads.items():
        torch.testing.assert_close(flat[path], leaf, rtol=1e-6, atol=1e-7)
    for path, leaf in tree.to_paths(new).items():
        if path in moved:
            torch.testing.assert_close(leaf, moved[path], rtol=1e-9, atol=1e-11)
        else:
            assert leaf == 1  # a counter of batches
    assert list(tree.to_paths(new)) == list(tree.to_paths(state))


def test_which_models_can_be_grouped():
    found = {name: timm_norms.can_group(timm.create_model(name, num_classes=0)) for name in (*NAMES, "test_vit")}
    assert found == {**dict.fromkeys(NAMES, True), "test_vit": False}
    for name, pads, shares in (("test_resnet", True, True), ("test_vit", True, False)):
        net = backbones.backbone(f"timm:{name}")
        assert (net.pads(), net.shares(), net.groups) == (pads, shares, False)
