"""TagFex: whole runs against a conventional loop, its parts by loops and by hand, and what may not be combined."""

import copy
import math

import one_conv
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
from cil_func.networks.outputs import classes_of
from cil_func.parallel import batch_split
from cil_func.runs import counting, setup
from cil_func.training import step
from cil_func.training.stage import TrainingData
from cil_func.training.waiting import Waiting

SHARP, BLEND, SOFTEN, HEADS = 0.3, 0.9, 2.5, 4
AUXILIARY, CONTRAST, KEPT, TRANSFER = 1.5, 0.7, 1.8, 0.6
SETTINGS = [f"method.temperature={SOFTEN}", *(f"method.options.{key}={value}" for key, value in {
    "sharpness": SHARP, "blend": BLEND, "heads": HEADS, "hidden": 12, "width": 6, "auxiliary": AUXILIARY,
    "contrast": CONTRAST, "kept": KEPT, "transfer": TRANSFER}.items())]  # fmt: skip


def nce(first: torch.Tensor, second: torch.Tensor, temperature: float = SHARP) -> torch.Tensor:
    """InfoNCE as a loop over images, of which 2 i and 2 i + 1 are views of one."""
    values = []
    for at, close in enumerate(F.cosine_similarity(first[:, None], second[None], dim=2) / temperature):
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
        found = {"attention.query": self.query}
        for name in ("second", "own"):
            found |= {f"attention.{name}.{kind}": getattr(self, f"{kind}_{name}") for kind in ("key", "value")}
            found |= {f"attention.{name}.norm.{key}": x for key, x in getattr(self, f"norm_{name}").named_parameters()}
        found |= {f"predictor.{key}": leaf for key, leaf in self.predictor.named_parameters()}
        for name, layer in (("first", self.projector[0]), ("second", self.projector[2])):
            found |= {f"projector.{name}.{key}": leaf for key, leaf in layer.named_parameters()}
        return found


def newest_of(model) -> list[dict]:
    """The newest backbone's params and state, without the second one."""
    found = [next(iter(part["backbone"].items())) for part in model]
    return [{"backbone": {name: {key: own[key] for key in own if key != "beside"}}} for name, own in found]


def second_of(model) -> list[dict]:
    """The second backbone's params and state, in the form of the newest one's."""
    found = [next(iter(part["backbone"].items())) for part in model]
    return [{"backbone": {name: own["beside"]}} for name, own in found]


def blended(newest: nn.Module, second: nn.Module) -> nn.Module:
    new = copy.deepcopy(newest).requires_grad_(True)
    with torch.no_grad():
        for mine, its in zip(new.parameters(), second.parameters(), strict=True):
            mine.copy_(BLEND * mine + (1 - BLEND) * its)
    return new


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(monkeypatch, "tagfex", "optim.epochs=1", *SETTINGS)
    nets, head, auxiliary = [oracle.backbone(*newest_of(run.started[0]))], None, None
    guide = Guide(run.started[0].params["head"], oracle.backbone(*second_of(run.started[0])))
    gates = []
    for phase, old, seen in oracle.phases():
        started = run.started[phase].params
        teacher = copy.deepcopy(guide).requires_grad_(False)
        teacher.net.eval()
        if phase:
            nets.append(blended(nets[-1], guide.net).train())
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
        trained = [*(leaf for each in moving for leaf in each.parameters()), *more]
        oracle.train(trained, run.batches[phase, ""], loss, epochs=1)
        if phase:
            oracle.align(head, old)
    assert set(gates) == {True, False}
    params, state = run.learned
    for at, net in enumerate(nets[:-1]):
        oracle.assert_backbone(
            net, {"backbone": params["frozen"][str(at)]}, {"backbone": state["frozen"][str(at)]}
        )  # so they have no second backbone
    oracle.assert_backbone(nets[-1], *newest_of(run.learned))
    oracle.assert_backbone(guide.net, *second_of(run.learned))
    oracle.assert_near(params["classifier"], head.state_dict())
    ours = tree.to_paths(params["head"])
    oracle.assert_near({f"projector.{name}": leaf for name, leaf in tree.to_paths(params["head"]["old"]).items()},
                       teacher.numbers())  # fmt: skip
    theirs = guide.numbers()
    oracle.assert_near({name: ours[name] for name in theirs}, theirs)
    oracle.assert_near({key: params["head"]["transfer"][key][old:seen] for key in ("weight", "bias")},
                       guide.transfer.state_dict())  # fmt: skip


def test_info_nce_is_the_loop_without_padding_and_whatever_the_padding():
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(10, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(contrast.info_nce(first, second, temperature=0.4), nce(first, second, 0.4))
    rows = torch.tensor([True] * 6 + [False] * 4)
    found = contrast.info_nce(first, second, temperature=0.4, rows=rows)
    torch.testing.assert_close(found, nce(first[:6], second[:6], 0.4))
    slope = torch.func.grad(lambda own: contrast.info_nce(own, own, temperature=0.4, rows=rows))(first)
    assert slope[:6].all() and not slope[6:].any()
    for junk in (math.inf, math.nan):
        spoilt = torch.where(rows[:, None], first, junk)
        again = torch.func.grad(lambda own: contrast.info_nce(own, own, temperature=0.4, rows=rows))(spoilt)
        assert torch.equal(again, slope)
    assert contrast.info_nce(first, second, temperature=0.4, rows=rows & False) == 0
    with pytest.raises(ValueError, match="B even"):
        contrast.info_nce(first[:5], second[:5], temperature=0.4)


def test_info_nce_by_hand():
    """Views that are equal, and two images at a right angle: log(e^2 + 2 e^0) - 2 with a temperature of 1/2."""
    views = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    assert contrast.info_nce(views, views, temperature=0.5).item() == pytest.approx(math.log(math.e**2 + 2) - 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_info_nce_of_half_precision_is_float32(dtype):
    views = torch.randn(6, 4, generator=torch.Generator().manual_seed(7)).to(dtype)
    found = contrast.info_nce(views, views, temperature=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), nce(views.double(), views.double(), 0.5), rtol=1e-5, atol=1e-5)


LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0, 9.0], [0.0, 0.5, 0.0, 2.0, 9.0]], dtype=torch.float64)  # class 4 is unseen


@pytest.mark.parametrize(("of_label", "open_"), [(3.0, True), (-3.0, False)])
def test_the_newest_backbone_is_taught_where_the_teaching_head_is_better(of_label, open_):
    """Labels 0 (old) and 2 (new): the head's cross-entropy over classes 2 and 3 is log(1 + e^-2), or log(1 + e^4)."""
    s = [[9.0, 9.0, of_label, 1.0, 9.0]] * 2
    classes, targets = classes_of([2, 2, 1], 1), methods.Targets(torch.tensor([0, 2]))
    z = torch.eye(2, dtype=torch.float64)

    def loss(logits, weight):
        made = methods.make("tagfex", methods.Options(), {"transfer": weight, "auxiliary": 0.0})
        aux = {"z": z, "p": z, "s": torch.tensor(s, dtype=torch.float64), "new": torch.zeros(2, 6).double()}
        return made.loss(methods.Outputs(logits, z, aux), methods.Outputs(logits, z, {"z": z}), targets, classes)

    ce = F.cross_entropy(LOGITS[:, :4], targets.labels)
    of_new = math.log(1 + math.exp(-2 if open_ else 4))
    assert (of_new < ce) == open_
    plain = loss(LOGITS, 0.0)  # the two views are at a right angle, and have nobody else: their InfoNCE is 0
    torch.testing.assert_close(plain, ce + of_new)
    slope = torch.func.grad(loss)(LOGITS, 3.0) - torch.func.grad(loss)(LOGITS, 0.0)
    wanted = torch.zeros(2, 5).double()
    if open_:  # of one image of a new class: w / T (softmax of the logits - softmax of s), of classes 2 and 3
        wanted[1, 2:4] = 3.0 / 2 * ((LOGITS[1, 2:4] / 2).softmax(0) - torch.tensor([3.0, 1.0]).div(2).softmax(0))
    torch.testing.assert_close(slope, wanted)


def test_padding_and_norm_groups_count_as_they_should(monkeypatch):
    tiny.shallow(monkeypatch)
    one_step.check_padding("tagfex", cases=[(12, 16, 0), (6, 12, 4)])
    one_step.check_padding_alone("tagfex", images=6)
    one_step.check_groups("tagfex")


def test_a_new_backbone_starts_between_newest_and_second_and_old_classes_do_not_see_it(monkeypatch):
    tiny.shallow(monkeypatch)
    _, network, _, _, _, _ = one_step.setting("tagfex", 1, torch.float64)
    last = network.init(1, 3)
    last.params["head"]["projector"] = tree.map(lambda leaf: leaf + 1, last.params["head"]["projector"])  # has learned
    grown = network.expand(last, 2, 2, 1)
    (own,), (new,) = last.params["backbone"].values(), grown.params["backbone"].values()
    conv, its = own["stem"]["conv"]["weight"], own["beside"]["stem"]["conv"]["weight"]
    assert not torch.equal(conv, its)
    torch.testing.assert_close(new["stem"]["conv"]["weight"], 0.95 * conv + 0.05 * its)
    assert torch.equal(new["beside"]["stem"]["conv"]["weight"], its)
    rows = grown.params["classifier"]["weight"].unflatten(1, (3, 64))
    assert torch.equal(rows[:3, 0], last.params["classifier"]["weight"][:, :64]) and rows[3:, :2].all()
    assert not rows[:3, 1].any() and not rows[:, 2].any()
    before, after = last.params["head"], grown.params["head"]
    assert torch.equal(after["old"]["first"]["weight"], before["projector"]["first"]["weight"])
    for name in ("transfer", "predictor", "auxiliary"):
        assert not torch.equal(after[name]["weight"], before[name]["weight"])
    again = network.expand(grown, 3, 2, 2).params["head"]
    assert torch.equal(again["predictor"]["weight"], after["predictor"]["weight"])
    assert list(network.expand(grown, 3, 2, 2).params["frozen"]) == ["0", "1"]


def build(*settings: str):
    return setup.build(load("digits", [*tiny.settings(), "method.name=tagfex", *settings])).experiment


def batches(made, *, first: int = 0, rows: int = 45) -> list:
    """(images, labels) of the batches of an epoch over some rows, from step `first` on."""
    data = TrainingData(
        made.train_images, made.scenario.train_labels, torch.arange(rows), made.augment, made.device, views=2
    )
    assert len(data) == 2 * rows
    found = []
    for chunk in data.chunks(made.recipe(0, ""), 3, Waiting(), 0, first):
        parts = list(zip(*(leaf.split(chunk.sizes) for leaf in chunk.batch), strict=True))
        found += parts[chunk.done :]
    return found


def test_each_row_comes_twice_side_by_side_with_draws_of_its_own():
    """45 rows are 90 images. From files, and from a later step on, they are the same."""
    plain, made = build("optim.batch_size=16", "augment.crop_padding=0"), build("optim.batch_size=16")
    assert counting.train_images(made)[:2] == [2 * 36, 2 * (36 + 20)]  # so the plan counts both
    whole, drawn = batches(plain), batches(made)
    assert [len(labels) for _, labels in whole] == [16] * 5 + [10]
    pixels, labels = (torch.cat(parts) for parts in zip(*whole, strict=True))
    assert torch.equal(pixels[::2], pixels[1::2]) and torch.equal(labels[::2], labels[1::2])
    assert len(pixels[::2].flatten(1).unique(dim=0)) == 45
    others = torch.cat([images for images, _ in drawn])
    differ = (others[::2] != others[1::2]).flatten(1).any(1)
    assert 30 < differ.sum() < 45  # of 9 crops, so that about 5 pairs have drawn the same one
    for same in (batches(made, first=3), batches(build("optim.batch_size=16", "data.storage=streaming"))[3:]):
        tree.map(lambda mine, theirs: torch.testing.assert_close(mine, theirs, rtol=0, atol=0), same, drawn[3:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.batch_size=15"], "optim.batch_size: 15, and the method takes 2 views of each image, which stay toge"),
        (["optim.norm_batch=5", "optim.batch_size=20"], "optim.norm_batch: 5, .* a multiple of 2 fits, such as 4"),
        (['model.freeze=["backbone.stem"]'], "model.freeze: tagfex mixes the weights of two trained backbones"),
        (["method.options.heads=7"], "method.options.heads: 7, and the backbone has 64 features; a divisor fits"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(*settings).network.init(0, 2)


def test_processes_share_whole_pairs():
    sizes = {"batch_size": 12, "norm_batch": 1, "table": "optim"}
    batch_split.refuse_cut_views(2, 1, **sizes)
    with pytest.raises(ConfigError, match="2 processes could share a batch by; use one process, or a resnet"):
        batch_split.refuse_cut_views(2, 2, **sizes)
    for count in (2, 3, 4, 5, 9):
        assert batch_split.fit_batch_size(count, batch_size=36, norm_batch=0, views=2) % 2 == 0
    assert batch_split.fit_batch_size(5, batch_size=36, norm_batch=0, views=2) == 6  # and not 5, a half of 9
    assert batch_split.fit_batch_size(2, batch_size=2, norm_batch=0, views=2) == 2


def test_accumulated_and_compiled_steps_are_the_whole_one():
    """In groups of 4; and without groups, where 12 images in 5 parts would cut pairs: they have 4 each."""
    method, classes, begun = one_conv.begin("tagfex", heads=2, hidden=5, width=3)
    batch, z = one_conv.draw(12, classes), torch.randn(12, 3, generator=torch.Generator().manual_seed(2)).double()
    taught = methods.Outputs(torch.zeros(12, 6).double(), torch.zeros(12, 12).double(), {"z": z})
    parts, arguments = one_conv.parts(method, norm_batch=4), (begun, taught, batch, classes, one_conv.RATE)
    whole = step.join(parts)(*arguments)
    assert whole[0].params["head"]["old"]["first"]["weight"].equal(begun.params["head"]["old"]["first"]["weight"])
    one_step.close(step.join(parts, accumulate=3)(*arguments), whole)
    one_step.close(step.join(one_conv.parts(method), accumulate=5)(*arguments), whole)
    gradient = one_conv.parts(method, norm_batch=6).gradient
    compiled = torch.compile(gradient, fullgraph=True, dynamic=False, backend="eager")
    one_step.close(compiled(*arguments[:4]), gradient(*arguments[:4]))
