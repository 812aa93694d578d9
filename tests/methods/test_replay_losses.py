"""Methods on the linear classifier that differ in their losses: whole runs against one conventional loop, and parts."""

import copy
import itertools
import math

import one_step
import oracle
import pytest
import tiny
import torch
import torch.nn.functional as F

from cil_func import methods
from cil_func.networks.outputs import classes_of


def sigmoids(classes, logits, labels, taught):
    """Sum over the classes seen of the binary cross-entropies, the old ones against the teacher's sigmoids."""
    old, _, _ = classes
    wanted = F.one_hot(labels, logits.shape[1]).double()
    if old:
        wanted[:, :old] = torch.sigmoid(taught)
    return F.binary_cross_entropy(torch.sigmoid(logits), wanted) * logits.shape[1]


def adjusted(classes, logits, labels, taught, tau=0.5):
    """Cross-entropy of logits plus tau log(share of each class in the images)."""
    _, _, counts = classes
    shares = torch.tensor([count / sum(counts) for count in counts], dtype=torch.float64)
    return F.cross_entropy(logits + tau * shares.log(), labels)


def plain(classes, logits, labels, taught):
    return F.cross_entropy(logits, labels)


def distilled(classes, logits, labels, taught):
    """Cross-entropy and a distillation over each phase's classes that the teacher knows."""
    loss, ends = F.cross_entropy(logits, labels), list(itertools.accumulate(oracle.SIZES))
    for start, end in zip([0, *ends], ends, strict=False):
        if taught is not None and end <= taught.shape[1]:
            loss = loss + oracle.soft_cross_entropy(logits[:, start:end], taught[:, start:end])
    return loss


# method, settings, loss, loss of the stage "balance", whether that trains everything
CASES = [
    ("icarl-bce", [], sigmoids, None, False),
    ("balanced", ["tau=0.5", "tuned_epochs=3"], adjusted, plain, False),
    ("eeil", ["tuned_epochs=3"], distilled, distilled, True),
]


@pytest.mark.parametrize(("method", "options", "main", "tuned", "everything"), CASES)
def test_three_phases_are_those_of_a_conventional_loop(method, options, main, tuned, everything, monkeypatch):
    run = oracle.learn(monkeypatch, method, *(f"method.options.{option}" for option in options))
    net = oracle.backbone(*run.started[0])
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        teacher = copy.deepcopy(net).eval()
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)
        kept = [len(run.exemplars[phase - 1][label]) for label in range(old)] if phase else []
        about = (old, seen, kept + [10] * (seen - old))

        def step(images, labels, loss, teacher, about=about):
            with torch.no_grad():
                taught = teacher(images)[0] if teacher else None
            return loss(about, net(images)[0], labels, taught)

        net.train()
        by_last = teacher if phase else None
        oracle.train(
            net.parameters(), run.batches[phase, ""], lambda *batch, by=by_last: step(*batch, loss=main, teacher=by)
        )
        if phase and tuned:
            before = copy.deepcopy(net).eval()
            net.train(everything)
            oracle.train(
                net.parameters() if everything else net.classifier.parameters(), run.batches[phase, "balance"],
                lambda *batch, by=before: step(*batch, loss=tuned, teacher=by), rate=0.01, cosine=False,
            )  # fmt: skip
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())


SEEN, OLD, C = 6, 4, 8  # of phases of 3, 1, 2 and 2 classes, in phase 2
CLASSES = classes_of([3, 1, 2, 2], 2)._replace(counts=torch.tensor([1, 0, 2, 1, 8, 8, 0, 0]))
generator = torch.Generator().manual_seed(1)
LOGITS, TAUGHT = torch.randn(2, 5, C, generator=generator, dtype=torch.float64)
LABELS = torch.tensor([0, 2, 4, 5, 5])


def loss_of(name, own=None, classes=CLASSES):
    student, teacher = (methods.Outputs(logits, torch.zeros(5, 2)) for logits in (LOGITS, TAUGHT))
    return methods.make(name, methods.Options(), own).loss(student, teacher, methods.Targets(LABELS), classes).item()


def test_sigmoids_by_hand_and_what_the_authors_code_averages_over():
    """Their CIFAR code counts the classes to come, as classes that no image is of."""
    terms = torch.zeros(5, C).double()
    for image, label in enumerate(LABELS.tolist()):
        for c in range(C):
            own = 1 / (1 + math.exp(-LOGITS[image, c]))
            wanted = 1 / (1 + math.exp(-TAUGHT[image, c])) if c < OLD else float(c == label)
            terms[image, c] = -wanted * math.log(own) - (1 - wanted) * math.log(1 - own)
    for outputs, expected in (
        ("sum", terms[:, :SEEN].sum() / 5), ("seen", terms[:, :SEEN].mean()), ("run", terms.mean())
    ):  # fmt: skip
        assert loss_of("icarl-bce", {"outputs": outputs}) == pytest.approx(expected.item(), rel=1e-12)


def test_the_counts_of_the_classes_are_added_as_log_shares_and_a_class_without_images_counts_as_one():
    shares = [1, 1, 2, 1, 8, 8]
    priors = torch.tensor([math.log(share / sum(shares)) for share in shares]).double()
    for tau in (0.0, 1.0, 2.5):
        expected = F.cross_entropy(LOGITS[:, :SEEN] + tau * priors, LABELS).item()
        assert loss_of("balanced", {"tau": tau}) == pytest.approx(expected, rel=1e-7)
    assert methods.make("balanced", methods.Options()).stages == ()


@pytest.mark.parametrize("name", ["icarl-bce", "eeil"])
def test_no_logit_of_a_class_to_come_counts(name):
    slope, value = torch.func.grad_and_value(lambda logits: methods.make(name, methods.Options()).loss(
        methods.Outputs(logits, None), methods.Outputs(TAUGHT, None), methods.Targets(LABELS), CLASSES
    ))(torch.cat([LOGITS[:, :SEEN], torch.full((5, C - SEEN), 1e4, dtype=torch.float64)], dim=1))  # fmt: skip
    assert value.item() == pytest.approx(loss_of(name), rel=1e-12)
    assert (slope[:, SEEN:] == 0).all() and slope[:, :SEEN].all()


@pytest.mark.parametrize("name", ["icarl-bce", "balanced", "eeil", "lucir", "lwm", "coil"])
def test_padding_and_norm_groups_count_as_they_should(name, monkeypatch):
    stage = "balance" if name == "balanced" else ""
    tiny.shallow(monkeypatch)
    one_step.check_padding(name, stage)
    one_step.check_padding_alone(name, stage)
    one_step.check_groups(name)
