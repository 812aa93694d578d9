"""LUCIR: whole runs against a conventional loop, and what its parts are."""

import copy
import math

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cil_func import methods
from cil_func.methods import lucir
from cil_func.networks import cosine
from cil_func.networks.outputs import classes_of

F64 = torch.float64


def features_of(net, images):
    return net.maps(images)[-1].mean((2, 3))  # without the last ReLU


def cosines_of(features, weight):
    return (features / features.norm(dim=1, keepdim=True)) @ (weight / weight.norm(dim=1, keepdim=True)).T


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(
        monkeypatch, "lucir", "method.options.less_forget=3.5", "method.options.margin=0.7",
        "method.options.tuned_epochs=3",
    )  # fmt: skip
    net, rows, sigma = oracle.backbone(*run.started[0]), [], nn.Parameter(torch.tensor(1.0, dtype=F64))
    for phase, old, seen in oracle.phases():
        teacher = copy.deepcopy(net).eval()
        rows.append(nn.Parameter(run.started[phase].params["classifier"]["weight"][old:].clone()))
        kept = sum(len(each) for each in run.exemplars[phase - 1].values()) if phase else 0
        shares = {"": kept / (kept + 10 * (seen - old)), "balance": old / seen}  # of old images

        def loss(images, labels, scale=sigma, old=old, seen=seen, share=shares[""], teacher=teacher):
            features = features_of(net, images)
            cosines = cosines_of(features, torch.cat(rows))
            value = F.cross_entropy(scale * cosines, labels)
            if not old:
                return value
            with torch.no_grad():
                before = features_of(teacher, images)
            ones = torch.ones(len(images), dtype=F64)
            value = value + 3.5 * math.sqrt(old / (seen - old)) * F.cosine_embedding_loss(features, before, ones)
            hard = labels < old
            own = cosines[hard].gather(1, labels[hard, None]).expand(-1, 2)
            near = cosines[hard, old:].topk(2, dim=1).values
            ranked = F.margin_ranking_loss(own, near, torch.ones_like(own), margin=0.7, reduction="sum")
            return value + ranked / (2 * len(images) * share)

        net.train()
        oracle.train([*net.parameters(), rows[-1], sigma], run.batches[phase, ""], loss)
        net.eval()
        if phase:
            oracle.train(
                rows, run.batches[phase, "balance"], rate=0.01, cosine=False,
                loss=lambda *batch, loss=loss, share=shares["balance"]: loss(*batch, scale=sigma.detach(), share=share),
            )  # fmt: skip
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], {"weight": torch.cat(rows)})
    oracle.assert_near(params["head"], {"sigma": sigma})


def test_old_rows_do_not_move_and_new_ones_begin_at_their_classes_mean_direction(monkeypatch):
    run = oracle.learn(monkeypatch, "lucir", "optim.epochs=1")
    for phase, old, seen in oracle.phases()[1:]:
        started = run.started[phase]
        ended = (*run.started, run.learned)[phase + 1].params["classifier"]["weight"]
        net, weight = oracle.backbone(*started).eval(), started.params["classifier"]["weight"]
        assert torch.equal(ended[:old], weight[:old]) and not torch.equal(ended[old:seen], weight[old:])
        length = weight[:old].norm(dim=1).mean()
        for label in range(old, seen):
            with torch.no_grad():
                features = features_of(net, run.images[phase][run.labels[phase] == label])
            mean = (features / features.norm(dim=1, keepdim=True)).mean(0)
            torch.testing.assert_close(weight[label], mean / mean.norm() * length, rtol=0, atol=1e-10)


COUNTS = torch.tensor([1, 1, 6, 8, 0, 0])
CLASSES = classes_of([2, 2, 2], 1)._replace(counts=COUNTS)  # 2 of 16 images are of old classes


@pytest.mark.parametrize(
    ("rivals", "expected"),
    [  # image 0: 0.5 - 0.1 + 0.3 and 0.5 - 0.1 - 0.2; image 1: 0.5 - 0.9 + 0.6 and nothing; image 2 is new
        (1, (0.7 + 0.2) / (3 * 2 / 16)), (2, (0.9 + 0.2) / 2 / (3 * 2 / 16)), (3, (0.9 + 0.2) / 2 / (3 * 2 / 16)),
    ],
)  # fmt: skip
def test_old_images_keep_a_margin_to_the_nearest_new_classes(rivals, expected):
    cosines = torch.tensor([
        [0.1, -0.5, 0.3, -0.2, 0.9, 0.9], [0.0, 0.9, -0.5, 0.6, 0.9, 0.9], [0.9, 0.9, -0.9, 0.0, 0.9, 0.9]
    ], dtype=F64)  # fmt: skip
    targets = methods.Targets(torch.tensor([0, 1, 2]))
    found = lucir.ranking(cosines, targets, CLASSES, margin=0.5, rivals=rivals)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_no_old_class_or_no_old_image_gives_no_loss_and_no_slope():
    cosines = torch.zeros(2, 6, dtype=F64)
    for classes, labels in ((CLASSES, [2, 3]), (classes_of([2, 2, 2], 0)._replace(counts=COUNTS), [0, 1])):
        slope, value = torch.func.grad_and_value(
            lambda cosines, classes=classes, labels=labels: lucir.ranking(
                cosines, methods.Targets(torch.tensor(labels)), classes, margin=0.5, rivals=2
            )
        )(cosines)
        assert value == 0 and (slope == 0).all()


def test_the_margin_is_over_the_new_classes_that_there_are():
    """A phase of a single class: one rival, though two are asked for."""
    classes = classes_of([3, 1, 2], 1)._replace(counts=torch.tensor([1, 1, 1, 3, 0, 0]))
    cosines = torch.zeros(1, 6, dtype=F64)
    found = lucir.ranking(cosines, methods.Targets(torch.tensor([0])), classes, margin=0.5, rivals=2)
    assert found.item() == pytest.approx(0.5 / 0.5)


def test_the_cosine_head():
    """sigma cos: lengths don't count, and rows of zeros, of classes to come, give 0 with a finite slope."""
    weight, features = (
        torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], dtype=F64),
        torch.tensor([[5.0, 0.0]], dtype=F64),
    )
    shared = {"sigma": torch.tensor(10.0, dtype=F64)}
    logits, aux = cosine.HEAD.apply({"weight": weight}, shared, features, None)
    assert logits[0].tolist() == pytest.approx([6.0, 0.0, 0.0])
    assert aux["cosines"][0].tolist() == pytest.approx([0.6, 0.0, 0.0])
    slope = torch.func.grad(lambda rows: cosine.apply({"weight": rows}, shared, features, None)[0].sum())(weight)
    assert slope.isfinite().all()
    rows = cosine.HEAD.init(3, 64, 5)
    grown = cosine.HEAD.expand(rows, 4, 2)["weight"]
    assert torch.equal(grown[:5], rows["weight"]) and grown.shape == (7, 64) and 0.1 < grown[5:].abs().max() <= 0.125
    assert cosine.HEAD.shared(0, 64, 7, 2)["sigma"] == 1
