"""DER: whole runs against a conventional loop, and what its parts are."""

import copy

import one_step
import oracle
import pytest
import tiny
import torch

from cil_func import methods, tree
from cil_func.methods import der
from cil_func.networks import outputs


def features_of(backbones: list, images: torch.Tensor) -> torch.Tensor:
    """The features of all backbones side by side; only the last one is differentiated."""
    with torch.no_grad():
        frozen = [each(images)[1] for each in backbones[:-1]]
    return torch.cat([*frozen, backbones[-1](images)[1]], dim=1)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_three_phases_are_those_of_a_conventional_loop(weight, monkeypatch):
    run = oracle.learn(monkeypatch, "der", f"method.options.auxiliary={weight}")
    backbones, head, auxiliary = [oracle.backbone(*run.started[0])], None, None
    for phase, old, seen in oracle.phases():
        started = run.started[phase].params
        if phase:
            backbones.append(copy.deepcopy(backbones[-1]))
            backbones[-2].eval()
        head, auxiliary = oracle.grown_heads(started, head, phase, old, seen)

        def loss(images, labels, head=head, auxiliary=auxiliary, old=old, seen=seen):
            return oracle.loss_of_heads(features_of(backbones, images), labels, head, auxiliary, old, seen, weight)

        backbones[-1].train()
        moving = [backbones[-1], head, *([auxiliary] if phase else [])]
        oracle.train([leaf for part in moving for leaf in part.parameters()], run.batches[phase, ""], loss)
        if phase:
            oracle.align(head, old)
    params, state = run.learned
    for at, network in enumerate(backbones[:-1]):
        oracle.assert_backbone(
            network.eval(), {"backbone": params["frozen"][str(at)]}, {"backbone": state["frozen"][str(at)]}
        )
    assert len(params["frozen"]) == len(state["frozen"]) == len(oracle.SIZES) - 1
    oracle.assert_backbone(backbones[-1], params, state)
    oracle.assert_near(params["classifier"], head.state_dict())
    ours = {name: leaf[oracle.used_rows(old, seen)] for name, leaf in params["head"]["auxiliary"].items()}
    oracle.assert_near(ours, auxiliary.state_dict())


def test_frozen_backbones_keep_their_bits_and_the_new_one_starts_as_a_copy_of_the_newest(monkeypatch):
    run = oracle.learn(monkeypatch, "der")
    for phase in (1, 2):
        for part, ended in zip(run.started[phase], run.learned, strict=True):
            frozen = part["frozen"][str(phase - 1)]
            same = [torch.equal(*pair) for pair in pairs_of(frozen, part["backbone"])]
            assert len(same) > 10 and all(same)
            assert all(torch.equal(*pair) for pair in pairs_of(frozen, ended["frozen"][str(phase - 1)]))
            assert not any(torch.equal(*pair) for pair in pairs_of(frozen, ended["backbone"]))


def pairs_of(first: dict, second: dict) -> list[tuple]:
    return list(zip(tree.leaves(first), tree.leaves(second), strict=True))


def test_rows_after_an_expansion_are_blocks_of_backbones(monkeypatch):
    """Old rows keep what they know of old backbones, all else is drawn, and backbones to come are 0."""
    run = oracle.learn(monkeypatch, "der", "optim.epochs=1")
    before, after = run.started[1].params["classifier"], run.started[2].params["classifier"]
    assert before["weight"].shape == (5, 3 * 64) and after["weight"].shape == (7, 3 * 64)
    assert before["weight"][:, :128].all() and not before["weight"][:, 128:].any()
    assert after["weight"].all() and run.learned.params["classifier"]["weight"].all()
    for started, known, bound in ((before, 3, 128**-0.5), (after, 5, 192**-0.5)):
        blocks = started["weight"].unflatten(1, (3, 64))
        drawn = [blocks[known:, 0], blocks[:known, 1 if known == 3 else 2]]  # as a linear layer on all draws them
        assert all(bound / 2 < block.abs().max() <= bound for block in drawn)


def test_the_auxiliary_head_tells_the_new_classes_apart_and_takes_the_old_ones_as_one():
    """7 classes in phases of 3, 2 and 2: class 7 stands for the old ones."""
    labels, sizes = torch.tensor([0, 2, 3, 4]), [3, 2, 2]
    second, first = outputs.classes_of(sizes, 1), outputs.classes_of(sizes, 0)
    assert der.auxiliary_labels(labels, second).tolist() == [7, 7, 3, 4]
    assert der.known(second).nonzero().flatten().tolist() == [3, 4, 7]
    assert der.auxiliary_labels(labels[:2], first).tolist() == [0, 2]
    assert der.known(first).nonzero().flatten().tolist() == [0, 1, 2]


def test_the_auxiliary_head_is_drawn_anew_in_each_phase(monkeypatch):
    run = oracle.learn(monkeypatch, "der", "optim.epochs=1")
    heads = [model.params["head"]["auxiliary"]["weight"] for model in run.started]
    assert all(head.shape == (8, 64) and 0.1 < head.abs().max() <= 0.125 for head in heads)
    assert len({head[0, 0].item() for head in heads}) == 3


def test_padding_and_norm_groups_count_as_they_should(monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_padding("der")
    one_step.check_padding_alone("der")
    one_step.check_groups("der")


def test_without_aligning_the_rows_stay_as_trained():
    made = methods.make("der", methods.Options(align=False))
    head = {"weight": torch.tensor([[3.0, 4.0], [6.0, 8.0]]), "bias": torch.zeros(2)}
    assert made.finish({"classifier": head}, 1) == ({"classifier": head}, None)
