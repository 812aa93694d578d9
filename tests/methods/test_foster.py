"""FOSTER: whole runs against a conventional loop, its weights by brute force, and what its stages begin with."""

import copy

import one_step
import oracle
import pytest
import tiny
import torch
import torch.nn.functional as F

from cil_func import experiment, methods, tree
from cil_func.methods import foster
from cil_func.networks import outputs
from cil_func.networks.network import Network

BETAS = (0.9, 0.8)  # of the boosting in phases 1 and 2
BETA, SOFTEN = 0.7, 2.5  # of the compression; the temperature


def rarity(counts: list[int], beta: float) -> torch.Tensor:
    """Each class's weight by sums of powers: 1 / (1 + b + ... + b^(n - 1)), so that they have the mean 1."""
    found = [1 / sum(beta**power for power in range(count)) for count in counts]
    return torch.tensor([value * len(found) / sum(found) for value in found], dtype=torch.float64)


def soft(student: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of softened predictions. taught: probabilities."""
    return -(taught * F.log_softmax(student / SOFTEN, dim=1)).sum(1).mean()


def known(grown: torch.nn.Linear, head: torch.nn.Linear) -> None:
    """Puts a classifier's rows into the first block of a grown one's, where ours has them up to rounding."""
    old = len(head.bias)
    for mine, theirs in ((grown.weight.data[:old, :64], head.weight), (grown.bias.data[:old], head.bias)):
        assert len(grown.bias) > old
        torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=oracle.TOLERANCE)
        mine.copy_(theirs.detach())


def features_of(nets: list, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([net(images)[1] for net in nets], dim=1)


def noted(monkeypatch, owner, name: str, into: list) -> None:
    """Appends (arguments, result) of each call of a function to a list."""
    function = getattr(owner, name)

    def call(*arguments, **more):
        found = function(*arguments, **more)
        into.append((arguments, found))
        return found

    monkeypatch.setattr(owner, name, call)


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    """Drawn numbers come from ours: the rows of a phase's start, and those that the compression begins with."""
    singles, judged = [], []
    noted(monkeypatch, Network, "single", singles)
    noted(monkeypatch, experiment, "evaluate", judged)
    run = oracle.learn(
        monkeypatch, "foster", f"method.options.beta1={list(BETAS)}", f"method.options.beta2={BETA}",
        f"method.temperature={SOFTEN}", "optim.compress.epochs=2",
    )  # fmt: skip
    boosts = [model for (_, _, model, *_), _ in judged if "frozen" in model.params]
    assert len(boosts) == len(singles) == 2
    net, head = oracle.backbone(*run.started[0]), None  # the single backbone that each phase ends with
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        batches = run.batches[phase, ""]
        if not phase:
            head = oracle.linear(rows["weight"][:, :64], rows["bias"])

            def loss(images, labels, net=net, head=head):
                return F.cross_entropy(head(net(images)[1]), labels)

            oracle.train([*net.parameters(), *head.parameters()], batches, loss)
            continue
        labels = torch.cat([labels for _, labels in batches])
        counts = [count // oracle.EPOCHS for count in torch.bincount(labels, minlength=seen).tolist()]
        net.eval().requires_grad_(False)
        head.requires_grad_(False)
        new, both = copy.deepcopy(net).train().requires_grad_(True), oracle.linear(rows["weight"], rows["bias"])
        known(both, head)
        enhanced = run.started[phase].params["head"]["auxiliary"]
        other = oracle.linear(enhanced["weight"][:seen], enhanced["bias"][:seen])
        weights = rarity(counts, BETAS[phase - 1])

        def boosted(images, labels, net=net, head=head, new=new, both=both, other=other, weights=weights, old=old):
            own, before = new(images)[1], net(images)[1]
            logits = both(torch.cat([before, own], dim=1))
            value = F.cross_entropy(logits / weights, labels) + F.cross_entropy(other(own), labels)
            return value + soft(logits[:, :old], (head(before) / SOFTEN).softmax(1))

        oracle.train([leaf for part in (new, both, other) for leaf in part.parameters()], batches, boosted)
        new.eval()
        params, state = boosts[phase - 1]  # whose accuracy is among the results too
        oracle.assert_backbone(new, params, state)
        oracle.assert_backbone(net, {"backbone": params["frozen"]["0"]}, {"backbone": state["frozen"]["0"]})
        oracle.assert_near(params["classifier"], both.state_dict())
        drawn = singles[phase - 1][1].params["classifier"]
        small = copy.deepcopy(net).requires_grad_(True)
        small_head = oracle.linear(drawn["weight"][:, :64], drawn["bias"])
        known(small_head, head)
        weights = rarity(counts, BETA)

        def compressed(images, labels, net=net, new=new, both=both, small=small, head=small_head, weights=weights):
            with torch.no_grad():
                taught = (both(features_of([net, new], images)) / SOFTEN).softmax(1) * weights
            return soft(head(small(images)[1]), taught / taught.sum(1, keepdim=True))

        small.train()
        moving = [*small.parameters(), *small_head.parameters()]
        oracle.train(moving, run.batches[phase, "compress"], compressed, epochs=2, decay=0.0)
        net, head = small, small_head
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near({name: leaf[..., :64] for name, leaf in params["classifier"].items()}, head.state_dict())
    assert not params["classifier"]["weight"][:, 64:].any() and "frozen" not in params


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.97])
def test_weights_are_inverse_sums_of_powers_of_mean_one(beta):
    """7 classes of which 5 are seen; of the third no exemplar is left, and it counts as one that has one."""
    classes = outputs.classes_of([3, 2, 2], 1)._replace(counts=torch.tensor([4, 20, 0, 500, 500, 0, 0]))
    found = foster.rarity(classes, beta, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(found[:5], rarity([4, 20, 1, 500, 500], beta))
    assert found[5:].tolist() == [1, 1] and found.dtype == torch.float64
    assert beta == 0 or found[0] > found[1] > found[3]


@pytest.mark.parametrize(
    ("betas", "used"), [(0.9, [0.9, 0.9, 0.9]), ((0.5,), [0.5] * 3), ((0.9, 0.7), [0.9, 0.7, 0.7])]
)
def test_each_phase_has_its_own_number_the_last_of_which_goes_on(betas, used):
    """With e and t of zeros their losses are the same in all cases, so that a loss shows its CE(s / w)."""
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(6, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 0])
    student = methods.Outputs(logits, logits, {"new": torch.zeros(6, 9).double()})
    loss = methods.make("foster", methods.Options(), {"beta1": betas}).loss
    teacher = methods.Outputs(torch.zeros_like(logits), logits)
    for phase, beta in enumerate(used, 1):
        old, seen = 2 * phase, 2 * phase + 2
        counts = torch.tensor([3] * old + [9, 9] + [0] * (6 - old))
        classes = outputs.classes_of([2] * 4, phase)._replace(counts=counts)
        found = loss(student, teacher, methods.Targets(labels), classes)
        aligned = logits[:, :seen] / rarity(counts[:seen].tolist(), beta)
        kd = -F.log_softmax(logits[:, :old] / 2, 1).mean(1).mean()
        torch.testing.assert_close(
            found, F.cross_entropy(aligned, labels) + torch.tensor(seen).double().log() + kd, rtol=1e-13, atol=0
        )


def test_phase_0_is_cross_entropy_alone_whatever_the_counts(monkeypatch):
    labels, logits = torch.tensor([0, 1, 1]), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    classes = outputs.classes_of([2, 2], 0)._replace(counts=torch.tensor([1, 90, 0, 0]))
    student = methods.Outputs(logits, logits, {"new": torch.ones(3, 5)})
    loss = methods.make("foster", methods.Options()).loss
    found = loss(student, methods.Outputs(torch.zeros(3, 4), logits), methods.Targets(labels), classes)
    torch.testing.assert_close(found, F.cross_entropy(logits[:, :2], labels))


def test_the_compression_trains_the_one_backbone_and_its_rows_alone(monkeypatch):
    """The second head stays, and the rows of the block of the new backbone's features stay 0."""
    tiny.shallow(monkeypatch)
    batch = one_step.draw(12)
    _, network, params, _, _, _ = one_step.setting("foster", 1, torch.float64)
    params["classifier"]["weight"][:, 64:] = 0.0
    state, _ = one_step.take("foster", "compress", 1, batch)
    assert not any(path.startswith("head") for path in tree.to_paths(state.opt_state))
    assert torch.equal(state.params["head"]["auxiliary"]["weight"], params["head"]["auxiliary"]["weight"])
    assert not state.params["classifier"]["weight"][:, 64:].any() and network.feature_dim == 2 * 64
    assert not torch.equal(state.params["classifier"]["weight"][:5, :64], params["classifier"]["weight"][:5, :64])


@pytest.mark.parametrize("stage", ["", "compress"])
def test_padding_counts_nowhere(stage, monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_padding("foster", stage)
    one_step.check_padding_alone("foster", stage)
    if not stage:
        one_step.check_groups("foster")
