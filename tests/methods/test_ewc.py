"""EWC: whole runs against a conventional loop with a penalty for each phase, and its closed forms."""

import oracle
import penalty_oracle
import pytest
import torch
import torch.nn.functional as F

from cil_func import methods
from cil_func.networks import outputs


@pytest.mark.parametrize(("strength", "per", "labels", "keep", "clip"), [
    (2.0, "image", "data", None, 0.0), (50.0, "batch", "predicted", 0.5, 0.0), (100.0, "batch", "data", "share", 1e-3),
])  # fmt: skip
def test_three_phases_are_those_of_a_conventional_loop(strength, per, labels, keep, clip, monkeypatch):
    """The paper's, FACIL's and PyCIL's. By batch there is one batch, so the order of rows doesn't matter."""
    run = oracle.learn(
        monkeypatch, "ewc", f"method.options.strength={strength}", f"method.options.per={per}",
        f"method.options.labels={labels}", f"method.options.keep={-1.0 if keep is None else keep}",
        f"method.options.clip={clip}", *(["optim.batch_size=30"] if per == "batch" else []),
    )  # fmt: skip

    def output(logits, targets):
        return F.cross_entropy(logits, targets if labels == "data" else logits.argmax(1))

    def fisher(net, images, targets):
        found = penalty_oracle.mean_of_gradients(net, output, torch.square, images, targets, per=per)
        assert not clip or sum((leaf > clip).sum() for leaf in found.values()) > 10
        return {name: leaf.clamp(max=clip or torch.inf) for name, leaf in found.items()}

    net, remembered = penalty_oracle.train_phases(run, fisher, strength=strength, keep=keep)
    penalty_oracle.check(run, net, remembered)


POINTS = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)


def importance(targets: torch.Tensor, *, per: str = "image", **options) -> torch.Tensor:
    """EWC's importance of the two weights of a logistic regression, logits (0, w x), on POINTS and their targets."""
    made = methods.make("ewc", methods.Options(), {"per": per, "clip": 0.0, **options})
    params = {"w": torch.tensor([0.5, -1.0], dtype=torch.float64)}
    classes = outputs.classes_of([2], 0)
    passes = penalty_oracle.Loops(
        lambda params, points: torch.stack([points[:, 0] * 0, points @ params["w"]], dim=1), params, POINTS, targets
    )
    return made.extra.after(made.extra.start(params), params, passes, classes)["importance"]["w"]


PROBABILITIES = torch.sigmoid(POINTS @ torch.tensor([0.5, -1.0], dtype=torch.float64))


def test_fisher_information_of_logistic_regression():
    """By the labels that the model itself expects, it is the mean of p (1 - p) x^2."""
    ones, zeros = (importance(torch.full((3,), value)) for value in (1, 0))
    p = PROBABILITIES[:, None]
    torch.testing.assert_close(ones, ((1 - p) ** 2 * POINTS**2).mean(0))
    torch.testing.assert_close(zeros, (p**2 * POINTS**2).mean(0))
    single = [importance(row) - zeros for row in torch.eye(3, dtype=torch.int64)]  # of label 1 at one image alone
    expected = zeros + sum(weight * change for weight, change in zip(p, single, strict=True))
    torch.testing.assert_close(expected, (p * (1 - p) * POINTS**2).mean(0))


def test_by_batch_the_mean_gradient_is_squared_and_labels_may_be_predicted():
    labels = torch.tensor([1, 0, 1])
    slopes = (PROBABILITIES - labels)[:, None] * POINTS                            # (3, 2)
    torch.testing.assert_close(importance(labels, per="batch"), slopes.mean(0) ** 2)
    predicted = (PROBABILITIES > 0.5).long()
    assert predicted.tolist() != labels.tolist()
    torch.testing.assert_close(importance(labels, labels="predicted"), importance(predicted))


def test_classes_that_are_not_known_yet_neither_count_nor_are_predicted():
    """The third logit is the largest, and its class comes in the next phase."""
    params = {"w": torch.tensor([0.5, -1.0], dtype=torch.float64)}

    def logits(params, points):
        return torch.stack([points[:, 0] * 0, points @ params["w"], points @ params["w"] + 50], dim=1)

    passes = penalty_oracle.Loops(logits, params, POINTS, torch.tensor([1, 0, 1]))
    for labels in ("data", "predicted"):
        made = methods.make("ewc", methods.Options(), {"labels": labels, "clip": 0.0})
        found = made.extra.after(made.extra.start(params), params, passes, outputs.classes_of([2, 1], 0))
        torch.testing.assert_close(found["importance"]["w"], importance(torch.tensor([1, 0, 1]), labels=labels))


def test_clip_is_the_largest_importance():
    labels = torch.tensor([1, 0, 1])
    free = importance(labels)
    limit = free.mean().item()
    assert importance(labels, clip=limit).tolist() == [min(value, limit) for value in free.tolist()]
