"""MEMO: whole runs against a conventional loop, and what moves and what doesn't."""

import copy

import one_step
import oracle
import reference
import tiny
import torch
import torch.nn.functional as F

from cil_func import methods, tree
from cil_func.networks.last_stages import is_earlier


def features_of(net: reference.ResNet, last_stages: list, images: torch.Tensor) -> torch.Tensor:
    """The features of all last stages, which see the same maps, side by side."""
    x = net.stem["norm"](net.stem["conv"](images))
    for block in (*net.stage0.values(), *net.stage1.values()):
        x = block(F.relu(x))
    found = []
    for stage in last_stages:
        y = x
        for block in stage.values():
            y = block(F.relu(y))
        found.append(F.relu(y).mean((2, 3)))
    return torch.cat(found, dim=1)


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(monkeypatch, "memo", "method.options.auxiliary=0.6")
    net, head, auxiliary = oracle.backbone(*run.started[0]), None, None
    last_stages = [net.stage2]
    for phase, old, seen in oracle.phases():
        started = run.started[phase].params
        net.train()
        if phase:
            last_stages.append(copy.deepcopy(last_stages[-1]))
            for stage in last_stages[:-1]:
                stage.eval().requires_grad_(False)
        head, auxiliary = oracle.grown_heads(started, head, phase, old, seen)

        def loss(images, labels, head=head, auxiliary=auxiliary, old=old, seen=seen):
            return oracle.loss_of_heads(features_of(net, last_stages, images), labels, head, auxiliary, old, seen, 0.6)

        moving = [net.stem, net.stage0, net.stage1, last_stages[-1], head, *([auxiliary] if phase else [])]
        oracle.train([leaf for part in moving for leaf in part.parameters()], run.batches[phase, ""], loss)
        if phase:
            oracle.align(head, old)
    params, state = ({**part, "backbone": {**part["backbone"]}} for part in run.learned)
    ((name, own),), (buffers,) = params["backbone"].items(), state["backbone"].values()
    assert list(own["earlier"]) == list(buffers["earlier"]) == ["0", "1"]
    for at, stage in enumerate((*last_stages[:-1], last_stages[-1])):
        net.stage2 = stage
        key = {**own, "stage2": own["earlier"][str(at)]} if at < 2 else own
        moved = {**buffers, "stage2": buffers["earlier"][str(at)]} if at < 2 else buffers
        trees = [{"backbone": {name: {k: v for k, v in part.items() if k != "earlier"}}} for part in (key, moved)]
        oracle.assert_backbone(net, *trees)
    oracle.assert_near(params["classifier"], head.state_dict())
    ours = {name: leaf[oracle.used_rows(old, seen)] for name, leaf in params["head"]["auxiliary"].items()}
    oracle.assert_near(ours, auxiliary.state_dict())


def test_earlier_last_stages_keep_their_bits_and_the_new_one_starts_as_a_copy_of_the_newest(monkeypatch):
    run = oracle.learn(monkeypatch, "memo", "optim.epochs=1")
    for phase in (1, 2):
        for part, ended in zip(run.started[phase], run.learned, strict=True):
            (own,), (done,) = part["backbone"].values(), ended["backbone"].values()
            earlier, kept = own["earlier"][str(phase - 1)], done["earlier"][str(phase - 1)]
            pairs = list(zip(*map(tree.leaves, (own["stage2"], earlier, kept, done["stage2"])), strict=True))
            assert len(pairs) > 3
            assert all(torch.equal(new, old) and torch.equal(old, after) for new, old, after, _ in pairs)
            assert not any(torch.equal(old, last) for _, old, _, last in pairs)


def test_an_earlier_stage_has_no_gradient_and_no_optimisers_state_and_shared_stages_have_both():
    made, _, params, _, _, _ = one_step.setting("memo", 1, torch.float64)
    batch = one_step.draw(12)
    state, _ = one_step.take("memo", "", 1, batch)
    moved, momentum = (tree.to_paths(part) for part in (state.params, state.opt_state))
    assert sum(map(is_earlier, moved)) > 3 and not any(".earlier." in path for path in momentum)
    for path, before in tree.to_paths(params).items():
        assert torch.equal(before, moved[path]) == is_earlier(path), path
    assert not made.main.trains("backbone.resnet20.earlier.0.block0.conv1.weight")
    assert made.freeze(lambda path: path == "a").frozen("a")  # as model.freeze does, beside its own
    assert made.freeze(lambda path: path == "a").frozen("backbone.net.earlier.0.b")


def test_padding_and_norm_groups_count_as_they_should(monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_padding("memo")
    one_step.check_padding_alone("memo")
    one_step.check_groups("memo")


def test_it_is_der_but_for_what_a_phase_adds():
    der, memo = (methods.make(name, methods.Options()) for name in ("der", "memo"))
    assert (der.grow, memo.grow) == ("backbone", "stage")
    assert memo.head == der.head and memo.finish is der.finish
