"""BiC: whole runs against a conventional loop, and the optimum of the two numbers."""

import copy

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cil_func import methods
from cil_func.networks import outputs


def corrected(logits: torch.Tensor, corrections: list, layers: str) -> torch.Tensor:
    """The logits after a layer for each phase's classes, or for those of the newest phase that has one."""
    parts = list(logits.split(oracle.SIZES[: len(corrections)], dim=1))
    for phase, (alpha, beta) in enumerate(corrections):
        if layers == "all" or phase == len(corrections) - 1:
            parts[phase] = alpha * parts[phase] + beta
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("layers", ["newest", "all"])
def test_three_phases_are_those_of_a_conventional_loop(layers, monkeypatch):
    run = oracle.learn(monkeypatch, "bic", f"method.options.layers={layers}", "optim.bias.epochs=5")
    net, corrections = oracle.backbone(*run.started[0]), []  # [(alpha, beta), ...] of each phase
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        teacher, taught_by = copy.deepcopy(net).eval(), list(corrections)
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)
        alpha, beta = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (1.0, 0.0))
        corrections.append((alpha, beta))

        def distilled(images, labels, old=old, seen=seen, teacher=teacher, taught_by=taught_by):
            logits = corrected(net(images)[0], corrections, layers)
            loss = F.cross_entropy(logits, labels)
            if not old:
                return loss
            with torch.no_grad():
                taught = corrected(teacher(images)[0], taught_by, layers)
            return (1 - old / seen) * loss + old / seen * oracle.soft_cross_entropy(logits[:, :old], taught)

        def bias(images, labels, beta=beta):
            return F.cross_entropy(corrected(net(images)[0], corrections, layers), labels) + 0.05 * beta**2

        net.train()
        oracle.train(net.parameters(), run.batches[phase, ""], distilled)
        if phase:
            held = run.batches[phase, "bias"]
            net.eval()
            oracle.train([alpha, beta], held, bias, epochs=len(held), decay=0.0, cosine=False)
            assert abs(alpha - 1) > 0.01 and abs(beta) > 0.01
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())
    for name, values in zip(("alpha", "beta"), zip(*corrections, strict=True), strict=True):
        oracle.assert_near({name: params["head"][name]}, {name: torch.stack(values)})


def images_of(batches: list) -> list[tuple]:
    """(label, pixels) of each image of an epoch."""
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    return [(label.item(), tuple(image.flatten().tolist())) for image, label in pairs]


def test_the_first_stage_never_sees_what_the_bias_is_learned_on(monkeypatch):
    """Of 7 exemplars of a class the last two, as a fifth of them rounded up, and as many of each new class."""
    run = oracle.learn(
        monkeypatch, "bic", "method.options.share=0.2", "optim.batch_size=64", "optim.epochs=1", "optim.bias.epochs=1"
    )
    trained, held = (images_of(run.batches[1, stage][:1]) for stage in ("", "bias"))
    assert sorted(label for label, _ in held) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(label for label, _ in trained) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 8 + [4] * 8
    assert len({*trained, *held}) == 3 * 7 + 2 * 10  # all that there is, each once
    exemplars = run.exemplars[0]
    assert all(run.exemplars[1][label].tolist() == exemplars[label][:4].tolist() for label in range(3))


@pytest.mark.parametrize("layers", ["newest", "all"])
def test_at_the_optimum_that_newtons_method_finds_the_gradient_is_zero(layers):
    """Held-out logits that don't change: 60 images of 6 classes in phases of 2, of which phase 1 is corrected. Both
    terms are convex in (alpha, beta), so a gradient of 0 is the optimum."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(60) % 6
    features = torch.randn(60, 6, generator=generator, dtype=torch.float64) + F.one_hot(labels, 6)
    rows = {"weight": torch.eye(6).double(), "bias": torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0, 3.0]).double()}
    made = methods.make("bic", methods.Options(), {"layers": layers})
    classes = outputs.classes_of([2, 2, 2], 2)

    def gradient(alpha, beta):
        def objective(shared):
            logits, _ = made.head.apply(rows, shared, features, classes)
            (stage,) = made.stages
            loss = stage.loss(methods.Outputs(logits, features), None, methods.Targets(labels), classes)
            return loss + stage.penalty({"head": shared}, {}, classes)

        pairs = torch.tensor([[1.0, 0.0], [0.7, -0.4], [alpha, beta]], dtype=torch.float64)
        return torch.func.grad(objective)({"alpha": pairs[:, 0], "beta": pairs[:, 1]})

    before = features + rows["bias"]
    if layers == "all":
        before = torch.cat([before[:, :2], 0.7 * before[:, 2:4] - 0.4, before[:, 4:]], dim=1)

    def conventional(pair):
        logits = torch.cat([before[:, :4], pair[0] * before[:, 4:] + pair[1]], dim=1)
        return F.cross_entropy(logits, labels) + 0.1 * pair[1] ** 2 / 2

    pair = torch.tensor([0.4, -0.6], dtype=torch.float64)
    for _ in range(20):  # Newton's method, from where it converges
        slopes = torch.autograd.functional.jacobian(conventional, pair)
        pair = pair - torch.linalg.solve(torch.autograd.functional.hessian(conventional, pair), slopes)
    assert pair[1] < -0.1  # the new classes' logits were too large
    found, at_start = gradient(*pair.tolist()), gradient(1.0, 0.0)
    for name in ("alpha", "beta"):
        assert found[name][:2].tolist() == [0, 0] and abs(found[name][2]) < 1e-12 < abs(at_start[name][2])
