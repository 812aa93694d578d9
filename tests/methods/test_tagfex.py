"""TagFex: whole runs against a conventional loop, its parts by loops and by hand, and what may not be combined."""

import copy
import math

import one_step
import oracle
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from cil_func import methods, tree
from cil_func.config import load
from cil_func.errors import ConfigError
from cil_func.methods import contrast
from cil_func.networks import task_agnostic
from cil_func.networks.outputs import classes_of
from cil_func.runs import counting, setup

SHARP, BLEND, SOFTEN, HEADS = 0.3, 0.9, 2.5, 4
AUXILIARY, CONTRAST, KEPT, TRANSFER = 1.5, 0.7, 1.8, 0.6
SETTINGS = [f"method.temperature={SOFTEN}", *(f"method.options.{key}={value}" for key, value in {
    "sharpness": SHARP, "blend": BLEND, "heads": HEADS, "hidden": 12, "width": 6, "auxiliary": AUXILIARY,
    "contrast": CONTRAST, "kept": KEPT, "transfer": TRANSFER}.items())]  # fmt: skip


def nce(first: torch.Tensor, second: torch.Tensor, temperature: float = SHARP) -> torch.Tensor:
    """InfoNCE as a loop over images, of which 2 i and 2 i + 1 are views of one."""
    values = []
    for at in range(len(first)):
        close = F.cosine_similarity(first[at : at + 1], second) / temperature
        others = torch.cat([close[:at], close[at + 1 :]])
        values.append(torch.logsumexp(others, 0) - close[at + 1 if at % 2 == 0 else at - 1])
    return torch.stack(values).mean()


class Guide(nn.Module):
    """All that TagFex trains beside DER: a second network, projector, predictor, attention, transfer head."""

    def __init__(self, params: dict, net: nn.Module):
        super().__init__()
        self.net = net
        self.projector = nn.Sequential(*(oracle.linear(**params["projector"][name]) for name in ("first", "second")))
        self.projector.insert(1, nn.ReLU())
        self.predictor = oracle.linear(**params["predictor"])
        self.draw(params, range(1))

    def draw(self, params: dict, new) -> None:
        """Takes over what a phase draws. new: its classes."""
        self.transfer = oracle.linear(*(params["transfer"][name][list(new)] for name in ("weight", "bias")))
        own = params["attention"]
        self.query = nn.Parameter(own["query"].clone())
        for name in ("second", "own"):
            assert own[name]["norm"]["weight"].eq(1).all() and own[name]["norm"]["bias"].eq(0).all()
            setattr(self, f"norm_{name}", nn.LayerNorm(64).double())
            for kind in ("key", "value"):
                setattr(self, f"{kind}_{name}", nn.Parameter(own[name][kind].clone()))

    def merged(self, second: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Features (B, 64) from two last maps (B, 64, H, W), by torch's own attention."""
        second, own = (each.relu().flatten(2).transpose(1, 2) for each in (second.detach(), own))
        second, own = self.norm_second(second), self.norm_own(own)
        keys = torch.cat([second @ self.key_second, own @ self.key_own], 1)
        values = torch.cat([second @ self.value_second, own @ self.value_own], 1)
        parts = (part.unflatten(2, (HEADS, 64 // HEADS)).transpose(1, 2) for part in (own @ self.query, keys, values))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2).mean(1)

    def numbers(self) -> dict:
        """What is trained but for the network, under our paths."""
        found = {f"attention.{kind}": leaf for kind, leaf in (("query", self.query),)}
        for name in ("second", "own"):
            found |= {f"attention.{name}.{kind}": getattr(self, f"{kind}_{name}") for kind in ("key", "value")}
            found |= {f"attention.{name}.norm.{key}": x for key, x in getattr(self, f"norm_{name}").named_parameters()}
        found |= {f"predictor.{key}": leaf for key, leaf in self.predictor.named_parameters()}
        for name, layer in (("first", self.projector[0]), ("second", self.projector[2])):
            found |= {f"projector.{name}.{key}": leaf for key, leaf in layer.named_parameters()}
        return found


def part(trees, key: str = "beside") -> tuple:
    """(params, state) of the second backbone, in the form of the first one's."""
    return tuple({"backbone": {name: own[key] for name, own in each["backbone"].items()}} for each in trees)


def main(trees) -> tuple:
    return tuple({"backbone": {name: {key: leaf for key, leaf in own.items() if key != "beside"}
                               for name, own in each["backbone"].items()}} for each in trees)  # fmt: skip


def blend(newest: nn.Module, second: nn.Module) -> nn.Module:
    new = copy.deepcopy(newest).requires_grad_(True)
    with torch.no_grad():
        for mine, its in zip(new.parameters(), second.parameters(), strict=True):
            mine.copy_(BLEND * mine + (1 - BLEND) * its)
    return new


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(monkeypatch, "tagfex", *SETTINGS)
    nets, head, auxiliary = [oracle.backbone(*main(run.started[0]))], None, None
    guide = Guide(run.started[0].params["head"], oracle.backbone(*part(run.started[0])))
    gates = []
    for phase, old, seen in oracle.phases():
        started = run.started[phase].params
        teacher = copy.deepcopy(guide).requires_grad_(False)
        teacher.net.eval()
        if phase:
            nets.append(blend(nets[-1], guide.net).train())
            nets[-2].eval().requires_grad_(False)
            guide.draw(started["head"], range(old, seen))
        if phase == 1:
            guide.predictor = oracle.linear(**started["head"]["predictor"])
        head, auxiliary = oracle.grown_heads(started, head, phase, old, seen)
        head.weight.data[:old, 64 * phase :] = 0

        def loss(images, labels, head=head, auxiliary=auxiliary, old=old, seen=seen, teacher=teacher):
            assert torch.equal(labels[::2], labels[1::2])
            maps, of_second = nets[-1].maps(images)[-1], guide.net.maps(images)[-1]
            own, second = (each.relu().mean((2, 3)) for each in (maps, of_second))
            features = torch.cat([*(net(images)[1] for net in nets[:-1]), own], 1)
            logits = head(features)
            ce = F.cross_entropy(logits, labels)
            value = oracle.loss_of_heads(features, labels, head, auxiliary, old, seen, AUXILIARY)
            share, z = old / seen, guide.projector(second)
            value = value + CONTRAST * (1 - share) * nce(z, z)
            if not old:
                return value
            frozen = teacher.projector
            kept = nce(frozen(guide.predictor(second)), frozen(teacher.net(images)[1]))
            new = labels >= old
            logits_of_new = guide.transfer(guide.merged(of_second, maps))[new]
            of_new = F.cross_entropy(logits_of_new, labels[new] - old) if new.any() else 0.0 * ce
            value = value + CONTRAST * KEPT * share * kept + of_new
            gates.append(bool(of_new < ce))
            if not gates[-1] or not new.any():
                return value
            taught = (logits_of_new.detach() / SOFTEN).softmax(1)
            mine = (logits[new][:, old:] / SOFTEN).log_softmax(1)
            return value + TRANSFER * F.kl_div(mine, taught, reduction="batchmean")

        used = [guide.transfer, guide.predictor, auxiliary] if phase else []
        moving = [nets[-1], guide.net, guide.projector, head, *used]
        more = [leaf for name, leaf in guide.numbers().items() if name.startswith("attention") and phase]
        oracle.train([*(leaf for each in moving for leaf in each.parameters()), *more], run.batches[phase, ""], loss)
        if phase:
            oracle.align(head, old)
    assert set(gates) == {True, False}
    params, state = run.learned
    for at, net in enumerate(nets[:-1]):
        oracle.assert_backbone(
            net, {"backbone": params["frozen"][str(at)]}, {"backbone": state["frozen"][str(at)]}
        )  # so they have no second backbone
    oracle.assert_backbone(nets[-1], *main(run.learned))
    oracle.assert_backbone(guide.net, *part(run.learned))
    oracle.assert_near(params["classifier"], head.state_dict())
    ours = tree.to_paths(params["head"])
    assert all(torch.equal(leaf, tree.to_paths(run.started[2].params["head"])[f"projector{name[3:]}"])
               or name for name, leaf in ours.items() if name.startswith("old"))  # fmt: skip
    theirs = guide.numbers()
    oracle.assert_near({name: ours[name] for name in theirs}, theirs)
    oracle.assert_near({key: params["head"]["transfer"][key][old:seen] for key in ("weight", "bias")},
                       guide.transfer.state_dict())  # fmt: skip
