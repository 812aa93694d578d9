"""PODNet: whole runs against a conventional loop, and what its parts are."""

import copy
import math
from collections import Counter

import one_step
import oracle
import pytest
import tiny
import torch
from torch import nn

from cil_func import config, methods
from cil_func.errors import ConfigError
from cil_func.methods import podnet
from cil_func.networks import outputs
from cil_func.runs import network_of, setup

PROXIES = 3


def outputs_of(net, images):
    """(features, the pooled maps of the four places) of images; nothing is cut off by a last ReLU."""
    maps = net.maps(images)
    assert len(maps) == 3  # a block a stage, so that the third stage's last two are the second's and its own
    pooled = []
    for each in (maps[0], maps[1], maps[1], maps[2]):
        vector = torch.cat([(each**2).sum(side).flatten(1) for side in (3, 2)], dim=1)
        pooled.append(vector / vector.norm(dim=1, keepdim=True))
    return maps[-1].mean((2, 3)), pooled


def similarities(features, proxies):
    """(B, K): for each class the proxies' -|f - w|^2 of unit vectors, weighted by their softmax."""
    units = features / features.norm(dim=1, keepdim=True), proxies / proxies.norm(dim=2, keepdim=True)
    terms = -((units[0][:, None, None] - units[1]) ** 2).sum(3)                    # (B, K, proxies)
    weights = terms.exp() / terms.exp().sum(2, keepdim=True)
    return (weights * terms).sum(2)


def nca(scaled, labels):
    """The authors' loss: the margin of 0.6 leaves all columns, so that it cancels."""
    moved = scaled - 0.6
    moved = moved - moved.max(dim=1, keepdim=True).values
    own = torch.arange(len(labels)), labels
    others = moved.exp().sum(1) - moved[own].exp()
    return (torch.log(1 + others) - moved[own]).mean()


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(
        monkeypatch, "podnet", f"method.options.proxies={PROXIES}", "method.options.pod=2.5", "method.options.flat=0.7",
        "method.options.tuned_epochs=3",
    )  # fmt: skip
    net, proxies, eta = oracle.backbone(*run.started[0]), [], nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    for phase, old, seen in oracle.phases():
        teacher = copy.deepcopy(net).eval()
        new = run.started[phase].params["classifier"]["weight"][old:].clone()      # (m, proxies, D)
        proxies.append(nn.Parameter(new))

        factor = math.sqrt(seen / (seen - old)) if old else 0.0

        def loss(images, labels, teacher=teacher, factor=factor):
            features, pooled = outputs_of(net, images)
            value = nca(eta * similarities(features, torch.cat(proxies)), labels)
            if not factor:
                return value
            with torch.no_grad():
                features_before, pooled_before = outputs_of(teacher, images)
            pod = sum((a - b).norm(dim=1).mean() for a, b in zip(pooled, pooled_before, strict=True)) / 4
            cosine = (features * features_before).sum(1) / (features.norm(dim=1) * features_before.norm(dim=1))
            return value + factor * (2.5 * pod + 0.7 * (1 - cosine).mean())

        def balanced(images, labels):
            with torch.no_grad():
                features, _ = outputs_of(net, images)
            return nca(eta.detach() * similarities(features, torch.cat(proxies)), labels)

        net.train()
        oracle.train([*net.parameters(), proxies[-1], eta], run.batches[phase, ""], loss, clamp=5.0)
        net.eval()
        if phase:
            oracle.train(proxies, run.batches[phase, "balance"], balanced, rate=0.05, cosine=False, clamp=5.0)
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], {"weight": torch.cat(proxies)})
    oracle.assert_near(params["head"], {"eta": eta})


def test_pooled_maps_are_sums_of_squares_at_length_one():
    """Of nine blocks the third, the sixth, and the last two."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 2, 3, 4)] * 3 + [(2, 3, 2, 2)] * 3 + [(2, 4, 1, 2)] * 3
    maps = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    found = podnet.pool(maps)
    assert list(found) == ["stage0", "stage1", "stage2", "final"]
    for pooled, each in zip(found.values(), (maps[2], maps[5], maps[7], maps[8]), strict=True):
        for image, vector in zip(each, pooled, strict=True):
            over_width = [sum(value**2 for value in line) for channel in image.tolist() for line in channel]
            over_height = [sum(value**2 for value in line) for channel in image.mT.tolist() for line in channel]
            length = sum(value**2 for value in over_width + over_height) ** 0.5
            expected = [value / length for value in over_width + over_height]
            assert vector.tolist() == pytest.approx(expected, rel=1e-12)


OWN = """
import torch
from cil_func.networks.backbones import Backbone

def make(count: int = 1, called: bool = True):
    def apply(params, state, images, *, train, taps=None, final_relu=True):
        return images.mean((2, 3)), taps([images] * count) if taps and called else {}, state

    return Backbone(init=lambda key, *, image_size: ({}, {}), apply=apply, feature_dim=lambda: 3, has_maps=True)
"""


def test_a_backbone_in_which_one_map_would_count_twice_is_refused_before_images_are_read(monkeypatch, tmp_path):
    """Also one's own, and one whose maps are not those of three stages."""
    monkeypatch.setattr(setup.load_data, "load", lambda *given: pytest.fail("the images are read"))
    with pytest.raises(ConfigError, match=r"resnet8 shows 3 feature maps; podnet needs .* resnet14 and"):
        setup.build(config.load("cifar", ["model.backbone=resnet8", "method.name=podnet"]))
    (tmp_path / "own.py").write_text(OWN)
    settings = [f"model.backbone={tmp_path / 'own.py'}:make", "method.name=podnet"]
    for count, called, shown in ((3, True, 3), (7, True, 7), (6, True, None), (9, True, None), (6, False, 0)):
        options = [f"model.options.count={count}", f"model.options.called={str(called).lower()}"]
        made, method = config.load("digits", [*settings, *options]), methods.make("podnet", methods.Options())
        if shown is None:
            network_of.check_maps(made, method, (8, 8))
            continue
        with pytest.raises(ConfigError, match=f"shows {shown} feature maps"):
            network_of.check_maps(made, method, (8, 8))
    network_of.check_maps(config.load("digits", ["model.backbone=resnet14"]), method, (8, 8))
    other = methods.make("lwm", methods.Options())
    network_of.check_maps(config.load("digits", ["model.backbone=resnet8"]), other, (8, 8))


def test_the_loss_is_the_sum_of_its_three_parts_by_hand():
    """3 classes are old, 2 are new: both distillations count sqrt(5 / 2) times, the four maps' mean 3 times that."""
    classes, unit = outputs.classes_of([3, 2, 2], 1), torch.eye(4, dtype=torch.float64)
    logits = torch.zeros(1, 7, dtype=torch.float64)
    logits[0, 5:] = 9.0  # of classes to come, the largest
    aux = [{name: unit[[place]] for name in podnet.MAPS} for place in (0, 1)]
    student = methods.Outputs(logits, unit[[0]], aux[0])
    teacher = methods.Outputs(logits, unit[[1]], {**aux[1], "final": unit[[0]]})
    loss = methods.make("podnet", methods.Options()).loss(student, teacher, methods.Targets(torch.tensor([4])), classes)
    # nca: log(1 + 4 others); maps: three at a distance of sqrt 2, one at 0; features: a right angle
    expected = math.log(5) + math.sqrt(2.5) * (3 * 3 / 4 * math.sqrt(2) + 1)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_old_proxies_move_in_the_stage_balance_alone_and_its_rows_are_as_many_of_each_class(monkeypatch):
    """Memory 21: 7 exemplars of each of 3 classes after phase 0, so 7 images of each of the 2 new ones."""
    run = oracle.learn(monkeypatch, "podnet", f"method.options.proxies={PROXIES}", "method.options.tuned_epochs=0")
    weights = [model.params["classifier"]["weight"] for model in (*run.started, run.learned)]
    assert torch.equal(weights[1][:3], weights[2][:3]) and torch.equal(weights[2][:5], weights[3][:5])
    assert not torch.equal(weights[1][3:], weights[2][3:5])
    assert all(not name for _, name in run.batches)
    tuned = oracle.learn(
        monkeypatch, "podnet", f"method.options.proxies={PROXIES}", "method.options.tuned_epochs=1", "optim.epochs=1"
    )
    weights = [model.params["classifier"]["weight"] for model in (*tuned.started, tuned.learned)]
    assert all((weights[2][label] != weights[1][label]).any() for label in range(3))
    for phase, kept in ((1, 7), (2, 4)):
        labels = [label for _, batch in tuned.batches[phase, "balance"] for label in batch.tolist()]
        assert Counter(labels) == dict.fromkeys(range(3 + 2 * phase), kept)


def test_new_proxies_are_centres_of_their_class_as_long_as_the_old_ones(monkeypatch):
    """Of the features that the phase begins with: each proxy is the mean of the images that are nearest to it."""
    run = oracle.learn(monkeypatch, "podnet", f"method.options.proxies={PROXIES}", "optim.epochs=1")
    for phase, old, seen in oracle.phases()[1:]:
        started = run.started[phase]
        net, weight = oracle.backbone(*started).eval(), started.params["classifier"]["weight"]
        length = weight[:old].norm(dim=2).mean()
        for label in range(old, seen):
            with torch.no_grad():
                features = net.maps(run.images[phase][run.labels[phase] == label])[-1].mean((2, 3))
            points, centres = features / features.norm(dim=1, keepdim=True), weight[label] / length
            nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
            for number, centre in enumerate(centres):
                torch.testing.assert_close(centre, points[nearest == number].mean(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stage", ["", "balance"])
def test_padding_counts_nowhere(stage, monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_padding("podnet", stage)
    one_step.check_padding_alone("podnet", stage)


def test_norm_groups_count_by_their_images(monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_groups("podnet")
