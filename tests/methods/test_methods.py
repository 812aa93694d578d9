"""Each method's record: its loss from torch's own functions on sliced logits, and what it declares."""

from dataclasses import replace
from inspect import signature

import pytest
import torch
import torch.nn.functional as F

from cil_func import config, methods
from cil_func.errors import ConfigError
from cil_func.networks.outputs import classes_of
from cil_func.runs.method_of import method_of

WIDTH, SEEN, OLD = 8, 6, 4
SIZES = [3, 1, 2, 2]  # classes 0 to 3 are old, 4 and 5 new, 6 and 7 to come
CLASSES = classes_of(SIZES, 2)._replace(counts=torch.tensor([7, 7, 7, 7, 7, 7, 0, 0]))
FIRST = classes_of([OLD, 2, 2], 0)._replace(counts=torch.tensor([7, 7, 7, 7, 0, 0, 0, 0]))


def draw(key: int) -> methods.Outputs:
    generator = torch.Generator().manual_seed(key)
    return methods.Outputs(torch.randn(5, WIDTH, generator=generator).double(), torch.zeros(5, 2))


STUDENT, TEACHER = draw(1), draw(2)
LABELS = torch.tensor([5, 4, 4, 5, 5])  # new classes, so that LwF's loss is defined too
TARGETS = methods.Targets(LABELS)
LOGITS = STUDENT.logits[:, :SEEN]
SOFT = -(F.softmax(TEACHER.logits[:, :OLD] / 2, 1) * F.log_softmax(LOGITS[:, :OLD] / 2, 1)).sum(1).mean()
CE = F.cross_entropy(LOGITS, LABELS)
NEW_CE = F.cross_entropy(LOGITS[:, OLD:], LABELS - OLD)
SUM = methods.Options(kd_combination="sum", kd_weight=2.0)
CONSTANT = methods.Options(kd_weight=0.3)  # no binary fraction: rounded to float32 it would be another weight
LAMBDA = OLD / SEEN
# no cross-entropy, or they need more than logits
OTHER_LOSSES = ("podnet", "der", "icarl-bce", "lucir", "lwm", "memo", "foster", "coil", "tagfex")
BY_LOGITS = [name for name in methods.TABLE if name not in OTHER_LOSSES]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("finetune", methods.Options(), CE),
        ("replay", methods.Options(), CE),
        ("joint", methods.Options(), CE),
        ("wa", methods.Options(), (1 - LAMBDA) * CE + LAMBDA * SOFT),
        ("wa", CONSTANT, 0.7 * CE + 0.3 * SOFT),
        ("wa", SUM, CE + 2 * SOFT),
        ("icarl", SUM, CE + 2 * SOFT),
        ("lwf", methods.Options(), (1 - LAMBDA) * NEW_CE + LAMBDA * SOFT),
        ("lwf", methods.Options(lwf_classes="seen"), (1 - LAMBDA) * CE + LAMBDA * SOFT),
    ],
)
def test_loss_of_a_later_phase(name, options, expected):
    found = methods.make(name, options).loss(STUDENT, TEACHER, TARGETS, CLASSES)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)  # float64 throughout, the weight too


@pytest.mark.parametrize("name", BY_LOGITS)
def test_phase_0_is_cross_entropy_alone(name):
    labels = torch.tensor([0, 1, 2, 3, 0])
    loss = methods.make(name, SUM).loss(STUDENT, None, methods.Targets(labels), FIRST)
    torch.testing.assert_close(loss, F.cross_entropy(STUDENT.logits[:, :OLD], labels))


@pytest.mark.parametrize("options", [SUM, CONSTANT, methods.Options()])
@pytest.mark.parametrize("name", ["wa", "icarl", "lwf", "icarl-bce", "eeil"])
def test_what_a_teacher_says_in_phase_0_does_not_count(name, options):
    """Bit by bit: one graph serves phase 0, where no class is old, and the later ones."""
    targets, loss = methods.Targets(torch.tensor([0, 1, 2, 3, 0])), methods.make(name, options).loss
    alone, taught = (torch.func.grad_and_value(
        lambda logits, teacher=teacher: loss(methods.Outputs(logits, None), teacher, targets, FIRST)
    )(STUDENT.logits) for teacher in (None, TEACHER))
    assert torch.equal(alone[0], taught[0]) and torch.equal(alone[1], taught[1])


@pytest.mark.parametrize("name", BY_LOGITS)
def test_padding_counts_in_no_loss(name):
    rows = torch.tensor([True, True, False, True, False])
    kept = [methods.Outputs(outputs.logits[rows], outputs.features[rows]) for outputs in (STUDENT, TEACHER)]
    loss = methods.make(name, SUM).loss
    found = loss(STUDENT, TEACHER, methods.Targets(LABELS, rows), CLASSES)
    torch.testing.assert_close(found, loss(*kept, methods.Targets(LABELS[rows]), CLASSES))
    assert found != loss(STUDENT, TEACHER, TARGETS, CLASSES)


@pytest.mark.parametrize("name", BY_LOGITS)
def test_label_smoothing_reaches_every_method(name):
    labels = torch.tensor([0, 1, 2, 3, 0])
    loss = methods.make(name, methods.Options(label_smoothing=0.1)).loss(STUDENT, None, methods.Targets(labels), FIRST)
    torch.testing.assert_close(loss, F.cross_entropy(STUDENT.logits[:, :OLD], labels, label_smoothing=0.1))


def test_the_published_sum_has_the_gradient_of_half_t_squared_kl():
    """Facts of the field: CE + 2 H(T) and CE + 0.5 T^2 KL at T = 2 train alike."""

    def ours(logits):
        return methods.make("wa", SUM).loss(methods.Outputs(logits, None), TEACHER, TARGETS, CLASSES)

    def tutorial(logits):
        teacher = F.softmax(TEACHER.logits[:, :OLD] / 2, dim=1)
        kl = F.kl_div(F.log_softmax(logits[:, :OLD] / 2, dim=1), teacher, reduction="batchmean")
        return F.cross_entropy(logits[:, :SEEN], LABELS) + 0.5 * 2**2 * kl

    torch.testing.assert_close(torch.func.grad(ours)(STUDENT.logits), torch.func.grad(tutorial)(STUDENT.logits))


def test_lwf_says_where_its_loss_is_empty_and_learns_a_single_class_by_the_other_one():
    """Softmax over one column is 1: over the new classes alone, a single one has loss 0 and no gradient."""
    single = methods.Classes(seen=torch.arange(WIDTH) < OLD + 1, old=torch.arange(WIDTH) < OLD)
    targets = methods.Targets(torch.full((5,), OLD))
    weightless = methods.Options(kd_combination="sum", kd_weight=0.0)

    def learned(options):
        loss = methods.make("lwf", options).loss
        value = lambda logits: loss(methods.Outputs(logits, None), TEACHER, targets, single)  # noqa: E731
        return torch.func.grad(value)(STUDENT.logits)[:, OLD]

    assert (learned(weightless) == 0).all()
    assert (learned(replace(weightless, lwf_classes="seen")) < 0).all()  # a step raises the new class's logit
    new, seen = (methods.make("lwf", methods.Options(lwf_classes=classes)).fault_of for classes in ("new", "seen"))
    for sizes, phase in (([2, 1, 1], 1), ([4, 4, 1], 2), ([1, 1], 1), ([1, 2, 1], 2)):
        assert new(sizes).startswith(f"data.increment: phase {phase} brings a single class")
        assert 'method.lwf_classes = "seen"' in new(sizes)
        assert seen(sizes) == ""
    for sizes in ([2, 2], [1, 2], [10]):
        assert new(sizes) == ""
    others = [name for name in methods.TABLE if name not in ("lwf", "ewc", "mas", "si", "rwalk", "lwm", "gem")]
    assert all(methods.make(name, methods.Options()).fault_of([1, 1]) == "" for name in others)


def test_only_wa_and_methods_of_several_backbones_align_and_only_when_asked():
    head = {"weight": torch.tensor([[3.0, 4.0], [0.0, 5.0], [6.0, 8.0]]), "bias": torch.arange(3.0)}
    params = {"backbone": {}, "classifier": head}
    finished, gamma = methods.make("wa", methods.Options()).finish(params, 1)
    assert gamma == 0.5  # old norms 5 and 5, the new one 10
    assert finished["classifier"]["weight"].tolist() == [[3, 4], [0, 5], [3, 4]]
    for name in methods.TABLE:
        options = methods.Options(align=name not in ("wa", "der", "memo", "tagfex"))
        finished, gamma = methods.make(name, options).finish(params, 1)
        assert gamma is None and finished is params


def test_declarations():
    """(memory, teacher, rows, restart, predict) as the papers have them."""
    expected = {
        "wa": (True, True, "new", False, "logits"),
        "icarl": (True, True, "new", False, "nme"),
        "replay": (True, False, "new", False, "logits"),
        "lwf": (False, True, "new", False, "logits"),
        "finetune": (False, False, "new", False, "logits"),
        "joint": (False, False, "all", True, "logits"),
        "ewc": (False, False, "new", False, "logits"),
        "mas": (False, False, "new", False, "logits"),
        "bic": (True, True, "new", False, "logits"),
        "podnet": (True, True, "new", False, "logits"),
        "der": (True, False, "new", False, "logits"),
        "memo": (True, False, "new", False, "logits"),
        "foster": (True, True, "new", False, "logits"),
        "icarl-bce": (True, True, "new", False, "nme"),
        "balanced": (True, False, "new", False, "logits"),
        "eeil": (True, True, "new", False, "logits"),
        "lucir": (True, True, "new", False, "logits"),
        "il2m": (True, False, "new", False, "logits"),
        "lwm": (False, True, "new", False, "logits"),
        "si": (False, False, "new", False, "logits"),
        "rwalk": (False, False, "new", False, "logits"),
        "derpp": (True, False, "arrived", False, "logits"),
        "agem": (True, False, "arrived", False, "logits"),
        "gem": (True, False, "arrived", False, "logits"),
        "coil": (True, True, "new", False, "logits"),
        "tagfex": (True, True, "new", False, "logits"),
    }
    for name, declared in expected.items():
        method = methods.make(name, methods.Options())
        found = (method.uses_memory, method.uses_teacher, method.rows, method.restart, method.predict)
        assert (method.name, found) == (name, declared)


def test_unknown_method_lists_the_known():
    with pytest.raises(ValueError, match="wa, icarl"):
        methods.make("wq", methods.Options())


def test_each_number_among_the_options_has_a_range_and_is_refused_outside_of_it():
    """A bare float or int would let a run begin with a value that makes no sense."""
    for name, make in methods.TABLE.items():
        for option in [*signature(make).parameters.values()][1:]:
            assert option.annotation not in (int, float), (name, option.name)
    for setting in (
        "podnet proxies=0", "derpp images=-1", "lucir rivals=0", "ranpac width=0", "coil entropy=0.0", "si damping=0.0",
        "ewc clip=-1.0", "bic share=-1.0", "bic share=1.0", "fetril rate=0.0", "balanced tau=-1.0",
        "der auxiliary=-1.0", "lucir margin=2.5", "lucir margin=-0.5",
    ):  # fmt: skip
        name, option = setting.split()
        with pytest.raises(ConfigError, match=rf"^method\.options\.{option.partition('=')[0]}: "):
            method_of(config.load("digits", [f"method.name={name}", f"method.options.{option}"]))


@pytest.mark.parametrize("name", ["agem", "gem", "derpp"])
def test_label_smoothing_is_of_the_exemplars_losses_too(name):
    """Else a step's direction would be compared with those of another loss."""
    stored, group = torch.zeros_like(STUDENT.logits), torch.tensor(2 if name == "gem" else 1)
    one, two = (
        methods.make(name, methods.Options(label_smoothing=smoothing)).replay.loss(
            STUDENT, stored, TARGETS, CLASSES, group
        )
        for smoothing in (0.0, 0.3)
    )
    assert not torch.isclose(one, two)
