"""A network's record: what it draws, how it grows, and what its parts say, against torch.nn and slices by hand."""

from dataclasses import replace

import pytest
import reference
import tiny
import torch
import torch.nn.functional as F

from cil_func import classifier, model, rng, tree
from cil_func.networks import auxiliary, cosine
from cil_func.networks.head import Head
from cil_func.networks.network import Model, Network, backbone_parts
from cil_func.networks.outputs import Classes, classes_of
from cil_func.training import inference
from cil_func.training.preprocess import Preprocess

SIZES = [3, 2, 2]
PLAIN = Network("resnet20", 7, 3, image_size=(8, 8))
GROWING = replace(PLAIN, grow="backbone", head=auxiliary.HEAD)
F64 = torch.float64


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    tiny.shallow(monkeypatch)


def drawn(network: Network, key: int = 1) -> Model:
    """A model in float64 whose statistics aren't those of a fresh one."""
    made = tree.cast(tuple(network.init(key, SIZES[0])), dtype=F64)
    generator = torch.Generator().manual_seed(key)
    moved = tree.map(lambda leaf: leaf + torch.rand(leaf.shape, generator=generator, dtype=F64), made[1])
    return Model(made[0], moved)


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=F64)


def assert_equal(first, second) -> None:
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), first, second)


def test_of_one_backbone_and_a_linear_classifier_it_is_the_plain_model():
    """The same draws, the same growth, the same outputs."""
    params, state = PLAIN.init(7, 3)
    assert_equal((params, state), model.init(7, "resnet20", 3))
    grown = PLAIN.expand(Model(params, state), 8, 2, 1)
    rows = classifier.expand(params["classifier"], rng.fold_in(8, "expand"), 2)
    assert_equal((grown.params, grown.state), ({**params, "classifier": rows}, state))
    batch = images().float()
    for train in (False, True):
        features, aux, moved = PLAIN.run(grown.params["backbone"], state, batch, train=train)
        said = PLAIN.outputs(grown.params, features, classes_of(SIZES, 1), aux)
        expected = model.apply(grown.params, state, batch, train=train)
        assert_equal((said.logits, said.features, moved), expected)
        assert said.aux == {}
    assert PLAIN.feature_dim == 64 and GROWING.feature_dim == 3 * 64


def test_pad_adds_rows_of_zeros_to_whatever_rows_there_are_and_cut_takes_them_off():
    rows = {"weight": torch.randn(3, 4, 2), "eta": {"bias": torch.randn(3)}}
    params = {"backbone": {"x": torch.ones(2)}, "classifier": rows}
    padded = PLAIN.pad(params)
    assert padded["classifier"]["weight"].shape == (7, 4, 2) and padded["classifier"]["eta"]["bias"].shape == (7,)
    assert not padded["classifier"]["weight"][3:].any() and not padded["classifier"]["eta"]["bias"][3:].any()
    assert_equal(PLAIN.cut(padded, 3), params)


def test_taps_see_each_blocks_output_before_its_relu_and_the_last_relu_can_be_left_out():
    made = drawn(PLAIN)
    network = replace(PLAIN, taps=lambda maps: {str(i): each for i, each in enumerate(maps)}, final_relu=False)
    for train in (False, True):
        torch_network = reference.load(8, *made).train(train)
        features, aux, moved = network.run(made.params["backbone"], made.state, images(), train=train)
        maps = torch_network.maps(images())
        assert len(aux) == len(maps) == 3
        for found, expected in zip(aux.values(), maps, strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(features, maps[-1].mean((2, 3)))
        assert (features < 0).any()
        cut, _, same = PLAIN.run(made.params["backbone"], made.state, images(), train=train)
        torch.testing.assert_close(cut, F.relu(maps[-1]).mean((2, 3)))
        assert_equal(moved, same)


def test_a_backbone_that_shows_no_maps_is_refused_for_taps():
    hidden = replace(PLAIN, backbone=replace(PLAIN.backbone, has_maps=False), taps=lambda maps: {})
    made = drawn(PLAIN)
    with pytest.raises(ValueError, match="shows no feature maps"):
        hidden.run(made.params["backbone"], made.state, images(), train=False)


def test_a_growing_network_freezes_its_backbone_and_goes_on_with_a_copy_of_it():
    first = drawn(GROWING)
    before = tree.map(torch.clone, tuple(first))
    second = GROWING.expand(first, 5, 2, 1)
    trained = Model(tree.map(lambda leaf: leaf + 1, second.params), tree.map(lambda leaf: leaf + 1, second.state))
    third = GROWING.expand(trained, 6, 2, 2)
    for part in range(2):
        assert list(second[part]["frozen"]) == ["0"] and list(third[part]["frozen"]) == ["0", "1"]
        assert_equal(second[part]["frozen"]["0"], first[part]["backbone"])
        assert_equal(second[part]["backbone"], first[part]["backbone"])
        assert_equal(third[part]["frozen"]["0"], trained[part]["frozen"]["0"])
        assert_equal(third[part]["frozen"]["1"], trained[part]["backbone"])
        assert_equal(third[part]["backbone"], trained[part]["backbone"])
    assert_equal(tuple(first), before)  # nothing changes in place


def test_rows_of_a_growing_network_are_blocks_of_which_only_the_known_ones_stay():
    first = drawn(GROWING)
    second = GROWING.expand(first, 5, 2, 1)
    third = GROWING.expand(second, 6, 2, 2)
    for old, new, known, phase in ((first, second, 3, 1), (second, third, 5, 2)):
        rows, grown = old.params["classifier"], new.params["classifier"]
        assert grown["weight"].shape == (known + 2, 3 * 64) and grown["weight"].dtype == F64
        assert torch.equal(grown["weight"][:known, : phase * 64], rows["weight"][:, : phase * 64])
        assert torch.equal(grown["bias"][:known], rows["bias"])
        there = grown["weight"][:, : (phase + 1) * 64]
        drawn_there = [there[known:], there[:known, phase * 64 :], grown["bias"][known:]]
        bound = ((phase + 1) * 64) ** -0.5  # of torch's Linear on so many features
        assert all(0.8 * bound < part.abs().max() <= bound and part.all() for part in drawn_there[:2])
        assert drawn_there[2].abs().max() <= bound
        assert not grown["weight"][:, (phase + 1) * 64 :].any()
    assert not first.params["classifier"]["weight"][:, 64:].any()


def test_features_of_a_growing_network_are_those_of_its_backbones_side_by_side():
    """By `Forward`, and by a step, which is given the frozen ones' and places its own among them."""
    first = drawn(GROWING)
    other = drawn(GROWING, 2)
    second = GROWING.expand(first, 5, 2, 1)
    second = Model(*({**part, "backbone": new["backbone"]} for part, new in zip(second, other, strict=True)))
    pixels = torch.randint(0, 256, (5, 8, 8, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    preprocess = Preprocess(*torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]], dtype=F64))
    expected = [reference.load(8, {**each.params, "classifier": classifier.init(0, 64, 1)}, each.state).double().eval()
                for each in (first, other)]  # fmt: skip
    with torch.no_grad():
        sides = [network(preprocess(pixels, F64))[1] for network in expected]
    forward = inference.Forward(
        GROWING, inference.forward_of(GROWING, preprocess, dtype=F64), 64, torch.device("cpu")
    )
    whole = torch.cat([*sides, torch.zeros(5, 64)], dim=1)
    torch.testing.assert_close(forward.outputs(second, pixels)[0], whole)
    taught = forward.teacher(first, classes_of(SIZES, 0))(pixels)
    torch.testing.assert_close(taught.features, torch.cat([sides[0], torch.zeros(5, 128)], dim=1))
    torch.testing.assert_close(GROWING.place(sides[1], torch.tensor(1), taught.features), whole)
    said = GROWING.outputs(second.params, whole, classes_of(SIZES, 1))
    weight, bias = second.params["classifier"].values()
    torch.testing.assert_close(said.logits, sides[0] @ weight[:, :64].T + sides[1] @ weight[:, 64:128].T + bias)
    auxiliary = second.params["head"]["auxiliary"]
    torch.testing.assert_close(said.aux["new"], sides[1] @ auxiliary["weight"].T + auxiliary["bias"])


@pytest.mark.parametrize("now", [0, 1, 2])
def test_place_puts_features_into_their_block(now):
    own, others = torch.randn(4, 64, dtype=F64), torch.randn(4, 192, dtype=F64)
    blocks = [own if at == now else torch.zeros(4, 64, dtype=F64) for at in range(3)]
    assert torch.equal(GROWING.place(own, now), torch.cat(blocks, dim=1))
    assert torch.equal(GROWING.place(own, torch.tensor(now), others), torch.cat(blocks, dim=1) + others)
    assert PLAIN.place(own, now, others) is own


def test_backbones_come_in_the_order_of_their_phases_also_where_names_are_sorted():
    frozen = {str(at): {"net": at} for at in (10, 2, 0, 1)}
    made = Model({"frozen": frozen, "backbone": {"net": 11}}, {"frozen": frozen, "backbone": {"net": 11}})
    assert [(at, params["net"], state["backbone"]["net"]) for at, params, state in backbone_parts(made)] == [
        (0, 0, 0), (1, 1, 1), (2, 2, 2), (10, 10, 10), (None, 11, 11),
    ]  # fmt: skip


def test_parameters_that_belong_to_no_class_are_drawn_for_the_whole_run_and_renewed_in_later_phases():
    calls = []
    head = Head(
        shared=lambda *arguments: {"sizes": torch.tensor(arguments[1:])},
        renew=lambda shared, key: calls.append(key) or {"sizes": shared["sizes"] + 1},
    )
    network = replace(PLAIN, head=head)
    first = network.init(1, 3)
    assert first.params["head"]["sizes"].tolist() == [64, 7, 3] and calls == []
    second = network.expand(first, 5, 2, 1)
    assert second.params["head"]["sizes"].tolist() == [65, 8, 4] and len(calls) == 1
    assert "head" not in PLAIN.init(1, 3).params


@pytest.mark.parametrize(("now", "old", "new"), [
    (0, [], [0, 1, 2]), (1, [0, 1, 2], [3, 4]), (2, [0, 1, 2, 3, 4], [5, 6]),
])  # fmt: skip
def test_classes_of_a_phase(now, old, new):
    found = classes_of(SIZES, now)
    assert [found.old.nonzero().flatten().tolist(), found.new.nonzero().flatten().tolist()] == [old, new]
    assert found.seen.nonzero().flatten().tolist() == old + new
    assert found.phase.tolist() == [0, 0, 0, 1, 1, 2, 2] and found.now.item() == now and found.counts is None
    assert Classes(found.seen, found.old).now is None


def test_a_head_without_bias_grows_with_its_backbones():
    made = Network("resnet8", 6, 3, head=cosine.HEAD, grow="backbone")
    first = made.init(0, 2)
    second = made.expand(first, 1, 2, 1)
    old, new = first.params["classifier"], second.params["classifier"]
    assert "bias" not in new and new["weight"].shape == (4, made.feature_dim)
    assert torch.equal(new["weight"][:2, :64], old["weight"][:, :64])
