"""Families of timm whose modules do what most don't: they cache, share modules, or norm tokens instead of images."""

from contextlib import nullcontext

import pytest
import timm
import torch

from cil_func import model, tree
from cil_func.networks import backbones, recomputing, timm_draws, timm_skeleton, weights

FAMILIES = {  # model: side of the images in pixels; what is odd about it
    "tiny_vit_5m_224": 64,  # eval mode keeps attention biases in the module
    "levit_128s": 224,  # so does this one, and its batch norm sees tokens
    "efficientvit_m0": 64,  # a batch norm goes with the classifier
    "densenet121": 32,  # a block is given a list that grows afterwards
    "coat_tiny": 32,  # a tensor has two names, and a block gives an input back as it is
}


def drawn(name: str, key: int):
    """Returns (net, params, state) of a model whose parameters are all random, those that timm sets to 0 too."""
    net = backbones.backbone(f"timm:{name}")
    params, state = net.init(key, image_size=(FAMILIES[name],) * 2)
    random = torch.Generator().manual_seed(key)
    return net, tree.map(lambda leaf: leaf + 0.1 * torch.randn(leaf.shape, generator=random), params), state


def images_of(name: str, count: int) -> torch.Tensor:
    return torch.randn(count, 3, FAMILIES[name], FAMILIES[name], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_answers_by_its_own_weights_whoever_was_asked_before(name):
    """In eval mode, and in train mode in between; against timm's module, which keeps no skeleton."""
    images = images_of(name, 2)
    net, *other = drawn(name, 1)
    for train in (False, True):
        net.apply(*other, images, train=train)
    net, params, state = drawn(name, 2)
    features = net.apply(params, state, images, train=False)[0]
    sized = {"img_size": FAMILIES[name]} if timm_skeleton.takes_size(name) else {}
    module = timm.create_model(name, pretrained=False, num_classes=0, **sized)
    ours, kept = tree.to_paths(params) | tree.to_paths(state), module.state_dict().keys()
    module.load_state_dict({path: leaf for path, leaf in ours.items() if path in kept}, strict=name != "coat_tiny")
    torch.testing.assert_close(features, module.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_vit_5m_224", "levit_128s"])
def test_gradients_in_eval_mode_reach_the_attention_biases_each_time(name):
    net, params, state = drawn(name, 2)
    images = images_of(name, 2)
    gradient = torch.func.grad(lambda params: net.apply(params, state, images, train=False)[0].square().sum())
    first, again = (tree.to_paths(gradient(params)) for _ in range(2))
    biases = [path for path in first if path.endswith("attention_biases")]
    assert biases and all(again[path].abs().sum() > 0 for path in biases)
    for path in biases:
        torch.testing.assert_close(again[path], first[path])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_timms_whole_model_fits_and_its_classifier_is_left_out(name):
    sized = {"img_size": FAMILIES[name]} if timm_skeleton.takes_size(name) else {}
    whole = timm.create_model(name, pretrained=False, num_classes=7, **sized).state_dict()
    net = backbones.backbone(f"timm:{name}")
    params, state = weights.pretrained(net, whole, file="x", name=name)(0, image_size=(FAMILIES[name],) * 2)
    for path, leaf in (tree.to_paths(params) | tree.to_paths(state)).items():
        assert path not in whole or torch.equal(leaf, whole[path]), path


@pytest.mark.parametrize("name", ["densenet121", "coat_tiny"])
def test_computing_blocks_again_gives_the_same_gradient(name):
    net, params, state = drawn(name, 1)
    images = images_of(name, 2)

    def loss(params, net):
        return net.apply(params, state, images, train=True)[0].square().mean()

    assert net.recomputes()
    kept = torch.func.grad(loss)(params, net)
    again = torch.func.grad(loss)(params, recomputing.recompute(net))
    for path, leaf in tree.to_paths(kept).items():
        torch.testing.assert_close(tree.to_paths(again)[path], leaf, rtol=1e-4, atol=1e-5, msg=path)


def test_batch_norm_over_tokens_takes_no_groups_and_no_padding():
    net, params, state = drawn("levit_128s", 1)
    assert not net.pads() and not net.shares()
    images = images_of("levit_128s", 4)
    for more in ({"norm_batch": 2}, {"valid": torch.ones(4)}):
        with pytest.raises(ValueError, match="no groups of images and no padding"):
            net.apply(params, state, images, train=True, **more)


@pytest.mark.parametrize(
    ("name", "size", "patch"),
    [("mixer_s32_224", 40, 32), ("resmlp_12_224", 40, 16), ("coat_tiny", 38, 4), ("tnt_s_legacy_patch16_224", 72, 16),
     ("convmixer_768_32", 40, 7), ("convnext_atto", 34, 4), ("pit_ti_224", 36, 16)],
)  # fmt: skip
def test_pixels_that_no_patch_takes_are_refused_whatever_a_model_calls_its_patches(name, size, patch):
    with pytest.raises(ValueError, match=rf"^its patches have {patch}x{patch} pixels"):
        model.backbone(f"timm:{name}").draws((size, size))


def test_patches_that_overlap_take_every_size():
    assert not model.backbone("timm:pvt_v2_b0").draws((64, 64))


def test_buffers_that_belong_to_a_size_are_refused_for_another():
    """Swin's parameters fit images of any size; its masks don't."""
    name = "swin_tiny_patch4_window7_224"
    params, state = model.init(0, f"timm:{name}", 2, image_size=(448, 448))
    with pytest.raises(ValueError, match=r"images of 224x224 pixels need .*attn_mask .* another size"):
        model.apply(params, state, torch.zeros(1, 3, 224, 224), train=False)


@pytest.mark.parametrize(("side", "padding", "cut"), [(6, 1, False), (7, 1, False), (6, 0, True), (8, 1, True)])
def test_padding_is_no_pixel_that_is_left_out(side, padding, cut):
    """Patches of 4: of 6 pixels and two of padding there are two, of 7 and the first of padding too."""
    patches = {"input": torch.empty(1, 3, side, side, device="meta"), "weight": torch.empty(5, 3, 4, 4, device="meta")}
    with timm_draws._Watch((side, side)), pytest.raises(ValueError, match="4x4") if cut else nullcontext():
        torch.nn.functional.conv2d(**patches, stride=4, padding=padding)
