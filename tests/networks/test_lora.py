"""Low-rank adapters: against the module with changed weights, and a run that trains them alone."""

import pytest
import timm
import tiny
import torch
from safetensors.torch import save_file

import cil_func
import train
from cil_func import rng, tree
from cil_func.errors import ConfigError, DataError
from cil_func.networks import backbones, lora

SIZE = (32, 32)


def test_the_features_are_those_of_the_module_with_the_products_added(tmp_path):
    torch.manual_seed(1)
    module = timm.create_model("test_vit", num_classes=5, img_size=32)
    save_file(module.state_dict(), tmp_path / "vit.safetensors")
    module.reset_classifier(0)
    net = lora.make("test_vit", rank=3, alpha=6.0, file=str(tmp_path / "vit.safetensors"))
    params, state = net.init(0, image_size=SIZE)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.apply(params, state, images, train=False)[0], module.eval()(images))
    generator = torch.Generator().manual_seed(2)
    for number, block in enumerate(module.blocks):
        own = params["lora"]["blocks"][str(number)]["attn"]["qkv"]
        own["b"] = torch.randn(own["b"].shape, generator=generator)
        block.attn.qkv.weight.data += 6.0 / 3 * own["b"] @ own["a"]
    torch.testing.assert_close(
        net.apply(params, state, images, train=False)[0], module(images), rtol=1e-4, atol=1e-5
    )


def test_in_low_precision_the_layers_are_lowered_and_the_products_are_not():
    net, inner = lora.make("test_vit"), backbones.backbone("timm:test_vit")
    params, state = net.init(0, image_size=SIZE)
    generator = torch.Generator().manual_seed(0)
    adapters = tree.to_paths(params["lora"])
    adapters |= {path: torch.randn(leaf.shape, generator=generator) for path, leaf in adapters.items()}
    params = {**params, "lora": tree.from_paths(adapters)}
    merged = tree.to_paths(params["base"])
    for path in (path.removesuffix(".a") for path in adapters if path.endswith(".a")):
        merged[f"{path}.weight"] = merged[f"{path}.weight"] + adapters[f"{path}.b"] @ adapters[f"{path}.a"]
    images = torch.randn(2, 3, *SIZE, generator=generator).bfloat16()
    found, expected = (
        backbones.run({"some": weights}, {"backbone": {"some": state}}, images, train=False, net=each)[0]
        for each, weights in ((net, params), (inner, tree.from_paths(merged)))
    )
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_model_that_it_can_not_adapt_is_refused():
    with pytest.raises(ConfigError, match="timm:test_resnet has batch norm"):
        lora.make("test_resnet")
    with pytest.raises(ConfigError, match=r"has no linear layer \*\.qqq"):
        lora.make("test_vit", modules=("*.qqq",))


def test_a_run_trains_adapters_and_classifier_alone(tmp_path):
    words = [*tiny.settings(folder=tiny.images(4, 6)), "data.image_size=32", "run.compile=false", "optim.epochs=1",
             "optim.norm_batch=0", "run.precision=float32", "model.backbone=cil_func.networks.lora:make",
             "model.options.name=test_vit", "model.options.rank=2", 'model.freeze=["backbone.base"]', "memory.size=4",
             "data.increment=2", "optim.batch_size=4"]  # fmt: skip
    flags = [word for each in words for word in ("--set", each)]
    assert train.main(["--config", "digits", *flags, "--out", str(tmp_path / "run")]) == 0
    saved = cil_func.load(tmp_path / "run")
    drawn, _ = saved.network.init(rng.fold_in(rng.fold_in(0, "phase", 0), "init"), 4)  # as the run has drawn them
    own = tree.to_paths(saved.params["backbone"]["make"])
    for path, leaf in tree.to_paths(drawn["backbone"]["make"]).items():
        assert torch.equal(own[path], leaf) is path.startswith("base."), path


def test_a_finished_run_predicts_without_the_file_that_it_began_with(tmp_path, monkeypatch):
    """And from another directory."""
    base = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), base)
    images = tiny.images(4, 6)
    words = [*tiny.settings(folder=images), "data.image_size=32", "run.compile=false", "optim.epochs=1",
             "optim.norm_batch=0", "run.precision=float32", "model.backbone=cil_func.networks.lora:make",
             "model.options.name=test_vit", f"model.options.file={base}", "memory.size=4", "data.increment=2",
             "optim.batch_size=4"]  # fmt: skip
    flags = [word for each in words for word in ("--set", each)]
    assert train.main(["--config", "digits", *flags, "--out", str(tmp_path / "run")]) == 0
    photo = next((images / "test").glob("*/*"))
    expected = cil_func.load(tmp_path / "run")([photo])
    base.unlink()
    assert torch.equal(cil_func.load(tmp_path / "run")([photo]), expected)


def test_a_rank_below_1_and_a_missing_file_name_their_key(monkeypatch, tmp_path):
    for rank in (0, -1):
        with pytest.raises(ConfigError, match=rf"^model.options.rank: {rank}; "):
            lora.make("test_vit", rank=rank)
    monkeypatch.setenv("HOME", str(tmp_path))
    net = lora.make("test_vit", file="~/weights.safetensors")
    with pytest.raises(DataError, match=rf"^model.options.file: {tmp_path}/weights.safetensors: can't be read"):
        net.init(0)
    wanted, _ = backbones.backbone("timm:test_vit").init(3)
    save_file(tree.to_paths(wanted), tmp_path / "weights.safetensors")
    base = net.init(0)[0]["base"]
    tree.map(lambda ours, theirs: torch.testing.assert_close(ours, theirs, rtol=0, atol=0), base, wanted)
