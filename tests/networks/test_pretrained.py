"""Weights from files, frozen parts and rate factors: against timm's own modules and torch.optim."""

import pickle
import re

import pytest
import timm
import timm_like
import torch
from safetensors.torch import save_file
from torch import nn

from cil_func import optim, tree
from cil_func.config import load
from cil_func.data.batches import Batch
from cil_func.errors import ConfigError, DataError
from cil_func.methods.base import Method
from cil_func.networks import backbones, freezing, weights
from cil_func.networks.network import Network
from cil_func.networks.outputs import classes_of
from cil_func.training import factors, step, step_state
from cil_func.training.preprocess import Preprocess

SIZE = (32, 32)


def module_of(name: str, **options) -> nn.Module:
    torch.manual_seed(4)
    return timm.create_model(name, pretrained=False, **options)


def file_of(tmp_path, name: str, ending: str, **options):
    module = module_of(name, **options)
    path = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(module.state_dict(), path)
    else:
        tensors = {f"module.{key}": leaf for key, leaf in module.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    return module, path


def loaded(name: str, path, image_size=SIZE):
    net = backbones.backbone(f"timm:{name}")
    init = weights.pretrained(net, weights.read(path), file=str(path), name=f"timm:{name}")
    return net, *init(0, image_size=image_size)


@pytest.mark.parametrize(
    ("name", "ending", "options"),
    [
        ("test_resnet", "safetensors", {}), ("test_vit", "pth", {"img_size": 32}), ("test_convnext", "pth", {}),
        ("test_efficientnet", "safetensors", {}),
    ],
)  # fmt: skip
def test_weights_of_a_file_give_the_modules_features(name, ending, options, tmp_path):
    """The file is timm's, with its classifier of 1,000 classes, which is dropped."""
    module, path = file_of(tmp_path, name, ending, **options)
    net, params, state = loaded(name, path)
    module.reset_classifier(0)
    images = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    features, _, _ = net.apply(params, state, images, train=False)
    torch.testing.assert_close(features, module.eval()(images))


def test_a_file_that_does_not_fit_is_one_line_that_names_what(tmp_path):
    module, path = file_of(tmp_path, "test_resnet", "safetensors")
    tensors = module.state_dict()
    del tensors["layer1.0.conv1.weight"]
    tensors |= {"extra.bias": torch.zeros(2), "layer1.0.conv2.weight": torch.zeros(2, 3, 1, 1)}
    save_file(tensors, path)
    with pytest.raises(DataError) as caught:
        loaded("test_resnet", path)
    text = str(caught.value)
    assert text.startswith(f"model.weights: {path} does not fit timm:test_resnet: 1 missing: layer1.0.conv1.weight; ")
    assert "1 unknown: extra.bias; 1 of another shape: layer1.0.conv2.weight (2, 3, 1, 1) instead of" in text
    module, path = file_of(tmp_path, "test_vit", "pth", img_size=64)
    with pytest.raises(DataError, match=r"1 of another shape: pos_embed .*data\.image_size$"):
        loaded("test_vit", path)


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_no_code_of_a_file_is_run_and_a_bad_file_is_one_line(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Code()}, path)
    with pytest.raises(DataError, match="more than tensors"):
        weights.read(path)
    path.write_bytes(pickle.dumps(Code()))
    for content in (path.read_bytes(), b"", b"no weights"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(f"model.weights: {path}: can't be loaded")):
            weights.read(path)
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(DataError, match="can't be loaded"):
            weights.read(tmp_path / "weights.safetensors")
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="can't be read"):
        weights.read(tmp_path / "none.pth")
    torch.save({"epoch": 3}, path)
    with pytest.raises(DataError, match="holds no weights"):
        weights.read(path)


def test_the_backbone_of_a_saved_run_is_taken():
    params, state = backbones.backbone("resnet20").init(5)
    flat = {f"params.backbone.resnet20.{path}": leaf for path, leaf in tree.to_paths(params).items()}
    flat |= {f"state.backbone.resnet20.{path}": leaf for path, leaf in tree.to_paths(state).items()}
    flat |= {"params.classifier.weight": torch.zeros(3, 64), "params.frozen.0.resnet20.stem.conv.weight": torch.ones(1)}
    net = backbones.backbone("resnet20")
    for other in ("beside.stem.conv.weight", "earlier.0.block0.conv1.weight"):  # of TagFex and of MEMO
        flat[f"params.backbone.resnet20.{other}"] = torch.zeros(1)
    found = weights.pretrained(net, weights.of_run(flat), file="f", name="resnet20")(0, image_size=SIZE)
    tree.map(lambda mine, theirs: torch.testing.assert_close(mine, theirs, rtol=0, atol=0), found, (params, state))


# --- Frozen parts


@pytest.mark.parametrize(
    ("patterns", "parts"),
    [
        (["backbone"], ("",)),
        (["backbone.stem", "backbone.stage0"], ("stem", "stage0")),
        (["backbone.stage[01].block0.norm1", "backbone.*.norm1.bias"],
         ("stage0.block0.norm1", "stage0.block1.norm1.bias", "stage0.block2.norm1.bias", "stage1.block0.norm1",
          *(f"stage{stage}.block{block}.norm1.bias" for stage, block in ((1, 1), (1, 2), (2, 0), (2, 1), (2, 2))))),
    ],
)  # fmt: skip
def test_the_parts_are_the_largest_whose_tensors_all_match(patterns, parts):
    assert freezing.parts_of(*backbones.backbone("resnet20").init(0), patterns) == parts


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match=r'model\.freeze: "backbone\.layer1" is no part .*backbone\.stem, '):
        freezing.parts_of(*backbones.backbone("resnet20").init(0), ["backbone.layer1"])
    own = backbones.Backbone(init=None, apply=None, feature_dim=None)
    with pytest.raises(ConfigError, match="as a whole alone"):
        freezing.freeze(own, ("stem",))


def frozen_step(name: str, patterns: list[str], parts: tuple[str, ...], rates=(), steps: int = 2, **compile_by):
    """(started, train state after some steps, the images, the labels) of cross-entropy in float64."""
    net = backbones.backbone(name)
    params, state = net.init(3, image_size=SIZE)
    assert freezing.parts_of(params, state, patterns) == parts if patterns else parts == ()
    network = Network(name, 4, 1, image_size=SIZE, backbone=freezing.freeze(net, parts))
    starts = tuple(f"backbone.{name}.{part}." if part else f"backbone.{name}." for part in parts)
    loss = lambda student, teacher, targets, classes: nn.functional.cross_entropy(student.logits, targets.labels)  # noqa: E731
    method = Method("own", loss).freeze(lambda path: f"{path}.".startswith(starts))
    model = tree.cast(tuple(network.init(3, 4)), dtype=torch.float64)
    optimiser = optim.sgd(momentum=0.9, weight_decay=1e-2)
    if rates:
        optimiser = factors.scaled(optimiser, lambda path: next((f for p, f in rates if p in path), 1.0))
    half = torch.full((3,), 0.5, dtype=torch.float64)
    made = step.make(method.main, network, optimiser, Preprocess(half, half), dtype=torch.float64, norm_batch=0)
    function = step.join(made)
    if compile_by:
        function = torch.compile(function, fullgraph=True, dynamic=False, **compile_by)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, *SIZE, 3), generator=generator, dtype=torch.uint8)
    batch = Batch(pixels, torch.arange(6) % 4)
    begun = step_state.start(method.main, optimiser, *model)
    train_state = begun
    for _ in range(steps):
        train_state, _ = function(train_state, None, batch, classes_of([4], 0), torch.tensor(0.05, dtype=torch.float64))
    return begun, train_state, (pixels.double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, batch.labels


def plain(name: str, begun, images, labels, frozen: tuple[str, ...], rates=(), steps: int = 2, size=None):
    """The module after the same steps by autograd and torch.optim.SGD, and its classifier."""
    module = timm.create_model(name, pretrained=False, num_classes=0, **size or {}).double()
    path = f"timm:{name}"
    parts = (begun.params["backbone"][path], begun.state["backbone"][path])
    module.load_state_dict({k: v for part in parts for k, v in tree.to_paths(part).items() if k in module.state_dict()})
    head = nn.Linear(module.num_features, 4).double()
    head.load_state_dict(begun.params["classifier"])
    module.train()
    for part in frozen:
        module.get_submodule(part).eval().requires_grad_(False)
    groups = [
        {"params": [leaf], "lr": 0.05 * next((f for p, f in rates if p in key), 1.0)}
        for key, leaf in module.named_parameters() if leaf.requires_grad
    ]  # fmt: skip
    optimiser = torch.optim.SGD([*groups, {"params": head.parameters(), "lr": 0.05}], momentum=0.9, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(module(images)), labels).backward()
        optimiser.step()
    return module, head


FROZEN = [
    ("test_resnet", ["backbone.conv1", "backbone.bn1", "backbone.layer1"], ("conv1", "bn1", "layer1"), None),
    ("test_vit", ["backbone.patch_embed", "backbone.blocks.[01]"], ("patch_embed", "blocks.0", "blocks.1"),
     {"img_size": 32}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "patterns", "parts", "size"), FROZEN)
def test_frozen_parts_and_factors_train_as_a_module_with_such_parts(name, patterns, parts, size):
    rates = (("layer2", 0.1), ("blocks", 0.2))
    begun, ended, images, labels = frozen_step(f"timm:{name}", patterns, parts, rates)
    module, head = plain(name, begun, images, labels, parts, rates, size=size)
    found = tree.to_paths(ended.params["backbone"][f"timm:{name}"]) | tree.to_paths(
        ended.state["backbone"][f"timm:{name}"]
    )
    for path, leaf in module.state_dict().items():
        torch.testing.assert_close(found[path], leaf, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ended.params["classifier"], dict(head.named_parameters()), rtol=1e-9, atol=1e-11)
    before = tree.to_paths({"params": begun.params, "state": begun.state})
    after = tree.to_paths({"params": ended.params, "state": ended.state})
    inside = [path for path in before if freezing.is_inside(path.partition(f"{name}.")[2], parts)]
    assert inside and all(torch.equal(after[path], before[path]) for path in inside)
    velocity = tree.to_paths(ended.opt_state["velocity"])
    assert not {f"params.{path}" for path in velocity} & {*inside}
    assert list(tree.to_paths(ended.state)) == list(tree.to_paths(begun.state))


def test_a_compiled_step_with_frozen_parts_and_factors_is_the_eager_one(monkeypatch):
    timm_like.install(monkeypatch)
    small = ("timm:tiny", ["backbone.stem", "backbone.norm"], ("stem", "norm"), (("classifier", 0.3),))
    (_, ended, *_), (_, compiled, *_) = frozen_step(*small), frozen_step(*small, backend="eager")
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12), compiled.params, ended.params)
    timm_like.forget()


def test_frozen_stages_of_our_resnets_keep_their_statistics_and_the_others_learn():
    parts = ("stem", "stage0", "stage1.block0.norm1")
    begun, ended, _, _ = frozen_step("resnet20", [f"backbone.{part}" for part in parts], parts)
    for before, after in ((begun.params, ended.params), (begun.state, ended.state)):
        pairs = zip(tree.to_paths(before).items(), tree.to_paths(tree.overlay(before, after)).values(), strict=True)
        for (path, old), new in pairs:
            inside = freezing.is_inside(path.removeprefix("backbone.resnet20."), parts)
            assert torch.equal(old, new) is inside, path


def test_a_wholly_frozen_backbone_runs_in_eval_and_takes_padding():
    net = backbones.backbone("timm:test_resnet")
    params, state = net.init(0)
    frozen = freezing.freeze(net, freezing.WHOLE)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = net.apply(params, state, images, train=False)
    found = frozen.apply(params, state, images, train=True, valid=torch.ones(2), norm_batch=1)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert frozen.pads()


def test_factors_of_adamw_are_those_of_its_groups():
    """Decay and Adam's step are both proportional to the rate of a group."""
    leaves = {"a": torch.tensor([1.0, -2.0], dtype=torch.float64), "b": torch.tensor([0.5], dtype=torch.float64)}
    optimiser = factors.scaled(optim.adamw(weight_decay=0.1), lambda path: 0.1 if path == "a" else 1.0)
    state, params = optimiser.init(leaves), leaves
    theirs = {key: nn.Parameter(leaf.clone()) for key, leaf in leaves.items()}
    groups = [{"params": [theirs["a"]], "lr": 0.001}, {"params": [theirs["b"]], "lr": 0.01}]
    oracle = torch.optim.AdamW(groups, weight_decay=0.1)
    for number in range(3):
        grads = {key: torch.sin(leaf + number) for key, leaf in params.items()}
        updates, state = optimiser.update(grads, state, params, torch.tensor(0.01, dtype=torch.float64))
        params = optim.apply_updates(params, updates)
        for leaf in theirs.values():
            leaf.grad = torch.sin(leaf.detach() + number)
        oracle.step()
    torch.testing.assert_close(params, {key: leaf.detach() for key, leaf in theirs.items()}, rtol=1e-12, atol=1e-14)


def test_a_tree_is_written_by_key_into_one_of_another_order():
    into = {"a": torch.zeros(2), "b": torch.zeros(2)}
    tree.write({"b": torch.ones(2), "a": torch.full((2,), 3.0)}, into=into)
    assert into["a"].tolist() == [3, 3] and into["b"].tolist() == [1, 1]


def test_the_keys_are_read_as_lists_of_pairs():
    config = load("digits", ['optim.rate_factors=[["backbone", 1], ["classifier", 0.5]]'])
    assert config.optim.rate_factors == (("backbone", 1.0), ("classifier", 0.5))
    for wrong in ('[["backbone"]]', '[["backbone", 0]]', '"backbone"'):
        with pytest.raises(ConfigError, match=r"optim\.rate_factors: .* a list of \[path, factor > 0\]"):
            load("digits", [f"optim.rate_factors={wrong}"])
