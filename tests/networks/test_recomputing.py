"""Activation checkpointing: the same bits, fewer tensors kept, and one line where it can't be."""

from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import borders
import five_methods
import pytest
import tiny
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import train
from cil_func import experiment, tree
from cil_func.config import load
from cil_func.networks import backbones, lora, recomputing, resnet, timm_recomputing
from cil_func.networks.timm_skeleton import Drop
from cil_func.runs import activations, setup

EAGER = ("run.device=cpu", "run.compile=false", "run.precision=float32", "optim.epochs=1", "memory.size=10")
CASES = [
    ("resnet20", {"norm_batch": 3, "frozen": ("stage1.block1.norm2",)}),
    ("resnet20", {"valid": torch.tensor([1.0] * 5 + [0]), "final_relu": False, "taps": lambda maps: {"7": maps[7]}}),
    ("timm:test_resnet", {}),
    ("timm:test_resnet", {"norm_batch": 3, "frozen": ("layer1",)}),
    ("timm:test_efficientnet", {"valid": torch.tensor([1.0] * 5 + [0])}),
    ("timm:test_vit", {"drop": Drop(0.1, 0.3)}),
    ("timm:test_convnext", {}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "more"), CASES)
def test_gradients_and_statistics_are_the_same(name, more, dtype):
    """Bit for bit. Up to rounding for SiLU, whose gradient is computed otherwise where a second one may follow."""
    net = backbones.backbone(name)
    params, state = net.init(0, image_size=(32, 32))
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)

    def apply(net, params, state):
        with nullcontext() if net.lowers else backbones.autocast(images, torch.float32):
            return net.apply(params, state, images, train=True, **more)

    def of(net):
        def loss(params, state):
            features, aux, moved = apply(net, params, state)
            value = features.float().square().sum() + sum(leaf.float().mean() for leaf in aux.values())
            return value, (features, moved)

        torch.manual_seed(5)
        return torch.func.grad_and_value(loss, has_aux=True)(params, state)

    expected, found = of(net), of(recomputing.recompute(net))
    largest = max(leaf.abs().max().item() for leaf in tree.leaves(expected[0]))
    atol = 100 * torch.finfo(dtype).eps * largest if name == "timm:test_efficientnet" else 0
    for leaf, same in zip(tree.leaves(expected), tree.leaves(found), strict=True):
        torch.testing.assert_close(same, leaf, rtol=0, atol=atol)
    if "drop" in more:  # otherwise this would say nothing about draws
        assert not torch.equal(apply(net, params, state)[0], expected[1][1][0])


def test_each_block_runs_twice_in_training_and_once_else(monkeypatch):
    calls, block = [], resnet._block
    monkeypatch.setattr(resnet, "_block", lambda *given: calls.append(1) or block(*given))
    net = recomputing.recompute(backbones.backbone("resnet20"))
    params, state = net.init(0)
    images = torch.rand(2, 3, 8, 8)
    net.apply(params, state, images, train=False)
    assert len(calls) == 9
    torch.func.grad(lambda params: net.apply(params, state, images, train=True)[0].sum())(params)
    assert len(calls) == 9 + 2 * 9


def test_nothing_is_kept_but_the_inputs_of_the_blocks():
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    net = recomputing.recompute(backbones.backbone("resnet20"))
    params, state = net.init(0)
    params = tree.map(lambda leaf: leaf.requires_grad_(), params)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net.apply(params, state, torch.rand(4, 3, 8, 8), train=True)
    own = {leaf.untyped_storage().data_ptr() for leaf in tree.leaves((params, state))}
    maps = [tuple(tensor.shape) for place, tensor in kept.items() if tensor.ndim == 4 and place not in own]
    maps = [shape for shape in maps if shape[2:] != (1, 1)]  # a norm's factors
    # nine inputs, and the last ReLU; the first convolution, which is in no block, keeps its input and its output
    halves = [(4, 16, 8, 8)] * 4 + [(4, 32, 4, 4)] * 3 + [(4, 64, 2, 2)] * 3
    assert sorted(maps) == sorted([*halves, (4, 3, 8, 8), (4, 16, 8, 8)])


def feature_sum(net, params, state, images):
    """Weighted: the plain sum of features from a layer norm is the same for all weights, up to rounding."""
    features = net.apply(params, state, images, train=True)[0]
    return (features * torch.arange(1.0, 1 + features.shape[1])).sum()


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once; most: the most there were."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree.leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.alive[leaf.untyped_storage()._cdata] = StorageWeakRef(leaf.untyped_storage()), leaf.nbytes
        self.alive = {place: held for place, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def test_a_gradient_by_torch_func_needs_a_third_of_the_memory():
    """It asks autograd for a backward pass that can be differentiated again, which keeps all that is computed in it."""
    found = {}
    for again in (False, True):
        net = backbones.backbone("resnet32")
        net = recomputing.recompute(net) if again else net
        params, state = net.init(0)
        images, peak = torch.rand(32, 3, 8, 8), Peak()
        with peak:
            torch.func.grad(partial(feature_sum, net))(params, state, images)
        found[again] = peak.most - 2 * sum(leaf.nbytes for leaf in tree.leaves(params))
    assert found[True] < found[False] / 3, found


def ready(*overrides):
    return setup.build(load("digits", tiny.settings(*EAGER, *overrides)))


def params_of(made):
    return experiment.run(made, emit=lambda event: None, save=lambda results: None)[0].learned.params


def test_a_run_has_the_same_weights_and_its_plan_counts_what_is_kept():
    without, again = (ready("model.backbone=resnet20", *more) for more in ((), ("run.recompute=true",)))
    assert activations.activation_bytes(again) < 0.4 * activations.activation_bytes(without)
    found, expected = (tree.leaves(params_of(each.experiment)) for each in (again, without))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("method", ["podnet", "memo"])
def test_with_maps_and_several_last_stages_it_is_the_same_run(method, monkeypatch):
    tiny.shallow(monkeypatch)
    expected = tree.leaves(borders.run(five_methods.build(method)).learned)
    monkeypatch.setattr(five_methods, "SETTINGS", (*five_methods.SETTINGS, "run.recompute=true"))
    found = tree.leaves(borders.run(five_methods.build(method)).learned)
    assert all(map(torch.equal, found, expected))


def test_a_backbone_without_blocks_is_refused_in_one_line(capsys):
    assert train.main(tiny.flags(*EAGER, "run.recompute=true", "model.backbone=timm:vgg11", "data.image_size=32")) == 2
    assert "run.recompute: true, and timm:vgg11 has no blocks to compute again; a resnet" in capsys.readouterr().err


def test_the_adapters_of_lora_have_the_same_gradient():
    net = lora.make("test_vit")
    params, state = net.init(0, image_size=(32, 32))
    images, gradients = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), []
    for each in (net, recomputing.recompute(net)):
        found = torch.func.grad(partial(feature_sum, each))(params, state, images)
        gradients.append(tree.leaves(found["lora"]))
    assert any(leaf.any() for leaf in gradients[0]) and all(map(torch.equal, *gradients))


class Mixing(torch.nn.Module):
    """A block that takes a keyword and something that is no tensor, and returns a pair."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, pair, power, *, shift=None):
        left, right = pair
        return self.first(left) ** power + right, self.second(right) * left + shift


class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = torch.nn.ModuleList([Mixing(), Mixing()])

    def forward(self, x, shift):
        pair = (x, 2 * x)
        for row in self.rows:
            pair = row(pair, 2, shift=shift)
        return pair[0] + pair[1].sin()


def test_blocks_with_keywords_and_several_results():
    torch.manual_seed(0)
    module, x, shift = Mixed(), torch.randn(4, 3), torch.randn(3)
    again = timm_recomputing.install(deepcopy(module), copied=deepcopy)
    assert timm_recomputing.has_blocks(module)

    def loss(weights, x, shift, module):
        return torch.func.functional_call(module, weights, (x, shift)).square().sum()

    of = torch.func.grad(loss, argnums=(0, 1, 2))
    weights = dict(module.named_parameters())
    expected, found = (tree.leaves(of(weights, x, shift, each)) for each in (module, again))
    assert len(found) == 8 + 2 and all(map(torch.equal, found, expected))


def test_a_traced_call_says_that_it_cannot_be():
    net = recomputing.recompute(backbones.backbone("resnet20"))
    run = torch.compile(partial(net.apply, train=True), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"torch\.compile can't trace it"):
        run(*net.init(0), torch.rand(2, 3, 8, 8))


def test_a_part_gets_what_is_no_tensor_as_it_was_given():
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])
    given = {"a": (x, "same"), "b": [None, 2, y]}

    def part(values, factor):
        (first, word), (nothing, power, second) = values["a"], values["b"]
        assert (word, nothing, power, type(values["a"])) == ("same", None, 2, tuple)
        return factor * first**power * second, {"seen": second}

    product, others = recomputing.recomputed(part, given, 5)
    product.sum().backward()
    assert product.tolist() == [15.0, 80.0] and others["seen"].tolist() == [3.0, 4.0]
    assert x.grad.tolist() == [30.0, 80.0]  # 5 * 2 x * y
