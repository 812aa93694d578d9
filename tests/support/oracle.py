"""Whole runs beside plain torch.nn: what a run of ours trained on, and the parts of a conventional one.

The order of rows, the choice of exemplars and the numbers that are drawn come from ours. Everything else a test
computes by itself with modules, autograd and torch.optim.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import reference
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from cil_func import experiment
from cil_func.config import load
from cil_func.networks.network import Model
from cil_func.runs import setup

SIZES = (3, 2, 2)  # classes of each phase, 10 images each
EPOCHS, RATE, DECAY = 3, 0.05, 5e-3
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Run:
    """What a run of ours trained on, and where it ended.

    batches: {(phase, stage): [(images (B, 3, 8, 8) float64, labels (B,)), ...]}, in order.
    images, labels: of each phase. pixels: all training images, normalised, by row.
    beside: {(phase, stage): [None or a Replayed, ...]}, what came beside each batch, its images normalised.
    started: the model that each phase began with. learned, extra: after the last phase. exemplars: after each phase.
    """

    batches: dict
    images: list
    labels: list
    started: list[Model]
    learned: Model
    extra: dict
    exemplars: list[dict]
    pixels: torch.Tensor
    beside: dict


def learn(monkeypatch, method: str, *more: str) -> Run:
    """Runs three phases of `method` on 8 x 8 images with a ResNet of depth 8, in float64."""
    tiny.shallow(monkeypatch)
    made = setup.build(load("digits", [
        *tiny.settings(folder=tiny.images(sum(SIZES), 10)), f"method.name={method}",
        f"data.initial_increment={SIZES[0]}", f"data.increment={SIZES[1]}", f"data.mean={list(MEAN)}",
        f"data.std={list(STD)}", "augment.crop_padding=0", "run.precision=float64", "run.device=cpu",
        f"optim.epochs={EPOCHS}", "optim.batch_size=16", f"optim.learning_rate={RATE}",
        f"optim.weight_decay={DECAY}", "memory.size=21", "method.kd_combination=convex", "method.kd_weight=dynamic",
        *more,
    ])).experiment  # fmt: skip
    batches, started, exemplars, expand, select = defaultdict(list), [], [], experiment.expand, experiment.select
    beside = defaultdict(list)

    def noted_recipe(phase, name):
        found = made.recipe(phase, name)

        def step(train_state, taught, batch, classes, rate):
            batches[phase, name].append((normalised(batch.images), batch.labels))
            more = getattr(batch, "replayed", None)
            beside[phase, name].append(more and more._replace(images=torch.stack([*map(normalised, more.images)])))
            return found.step(train_state, taught, batch, classes, rate)

        return replace(found, step=step)

    def noted(function, into):
        def call(*arguments):
            into.append(function(*arguments))
            return into[-1]

        return call

    monkeypatch.setattr(experiment, "expand", noted(expand, started))
    monkeypatch.setattr(experiment, "select", noted(select, exemplars))
    progress, _ = experiment.run(replace(made, recipe=noted_recipe), emit=lambda event: None, save=lambda results: None)
    rows = [phase.train_rows for phase in made.scenario.phases]
    return Run(
        batches, [normalised(made.train_images.pixels[own]) for own in rows],
        [made.scenario.train_labels[own] for own in rows], started, progress.learned, progress.extra, exemplars,
        normalised(made.train_images.pixels), beside,
    )  # fmt: skip


def phases():
    """(phase, classes known before it, classes known in it) of each phase."""
    return [(phase, sum(SIZES[:phase]), sum(SIZES[: phase + 1])) for phase in range(len(SIZES))]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).double() / 255 - mean) / std


def backbone(params: dict, state: dict) -> reference.ResNet:
    """A torch.nn ResNet of depth 8 with the numbers of params["backbone"]; it has no classifier."""
    network = reference.ResNet(8, 1)
    network.classifier = nn.Identity()
    network.double().load_state_dict(named(params, state), strict=False)
    return network


def named(params: dict, state: dict) -> dict[str, torch.Tensor]:
    """Our backbone's weights and statistics under the names that torch.nn has for them."""
    return reference.parameters({"backbone": params["backbone"], "classifier": {}}) | reference.statistics(state)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A linear layer that holds copies of these numbers."""
    layer = nn.Linear(*reversed(weight.shape)).double()
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layer


def grown(layer: nn.Linear, started: dict) -> nn.Linear:
    """The layer with the rows behind its own that our classifier was given."""
    known = len(layer.bias)
    assert len(started["bias"]) > known
    return linear(*(torch.cat([own.data, started[name][known:]]) for name, own in layer.named_parameters()))


def grown_heads(
    started: dict, head: nn.Linear | None, phase: int, old: int, seen: int
) -> tuple[nn.Linear, nn.Linear | None]:
    """(head, auxiliary head) that a phase of DER or MEMO starts with. head: the last phase's, None in phase 0."""
    drawn = linear(started["classifier"]["weight"][:, : 64 * (phase + 1)], started["classifier"]["bias"])
    if head is None:
        return drawn, None
    with torch.no_grad():  # of the old classes, what is known of the old features stays
        drawn.weight[:old, : 64 * phase], drawn.bias[:old] = head.weight, head.bias
    others, used = started["head"]["auxiliary"], used_rows(old, seen)
    return drawn, linear(others["weight"][used], others["bias"][used])


def used_rows(old: int, seen: int) -> list[int]:
    """The auxiliary rows that a phase uses: the new classes', and behind all classes the one for the old."""
    return [*range(old, seen), sum(SIZES)]


def loss_of_heads(features, labels, head, auxiliary, old: int, seen: int, weight: float) -> torch.Tensor:
    """The loss of DER and MEMO: cross-entropy, and in later phases that of the auxiliary head on the new features."""
    value = F.cross_entropy(head(features), labels)
    if not old:
        return value
    others = torch.where(labels < old, seen - old, labels - old)
    return value + weight * F.cross_entropy(auxiliary(features[:, -64:]), others)


def align(head: nn.Linear, old: int) -> None:
    """The mean length of the new rows becomes that of the old ones."""
    lengths = head.weight.detach().square().sum(1).sqrt()
    head.weight.data[old:] *= lengths[:old].mean() / lengths[old:].mean()


def train(parameters, batches, loss, *, epochs=EPOCHS, rate=RATE, decay=DECAY, cosine=True, clamp=0.0) -> None:
    """Heavy-ball SGD on loss(images, labels) of each batch; cosine: the rate falls to 0, once an epoch."""
    parameters = list(parameters)
    sgd = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    steps, left = divmod(len(batches), epochs)
    assert steps and not left
    for number, batch in enumerate(batches):
        if cosine:
            sgd.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * (number // steps) / epochs)) / 2
        sgd.zero_grad()
        loss(*batch).backward()
        if clamp:
            nn.utils.clip_grad_value_(parameters, clamp)
        sgd.step()


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """Mean over the batch of -sum_c softmax(teacher / T)_c log softmax(student / T)_c."""
    weights = torch.softmax(teacher.detach() / temperature, dim=1)
    return -(weights * torch.log_softmax(student / temperature, dim=1)).sum(dim=1).mean()


def assert_near(ours: dict, theirs: dict, tolerance: float = TOLERANCE) -> None:
    """All tensors of two flat dicts within `tolerance`; the second may hold more."""
    for name, leaf in ours.items():
        torch.testing.assert_close(leaf, theirs[name].detach(), rtol=0, atol=tolerance, msg=lambda text, name=name: (
            f"{name}: {text}"
        ))  # fmt: skip


def assert_backbone(network: nn.Module, params: dict, state: dict) -> None:
    """Our backbone's weights and statistics are the network's."""
    ours = named(params, state)
    assert len(ours) == 7 * 5  # of 7 convolutions: weights, two of batch norm, two statistics
    assert_near(ours, network.state_dict())
