"""How a method predicts; what is measured at the end of a phase, and what a run's phases add up to (results.json)."""

from typing import Literal

import torch

from cil_func import metrics
from cil_func.training import calibrating
from cil_func.tree import Tree

_LARGE = ("confusion", "judged")  # too many numbers for results.json


def scores(
    logits: torch.Tensor,
    features: torch.Tensor,
    *,
    means: torch.Tensor | None = None,
    predict: Literal["logits", "nme"] = "logits",
) -> torch.Tensor:
    """Returns scores (N, K), of which the highest is a method's prediction.

    logits (N, K) and features (N, D): of the network. predict: the method's rule: "logits" returns them as they are;
    "nme" is the nearest of the class means. means: (K, D), see `metrics.class_means`; None: there are none.
    Raises ValueError for "nme" without means.
    """
    if predict == "logits":
        return logits
    if means is None:
        raise ValueError('scores: predict="nme" without class means; give means (K, D), or predict="logits"')
    return metrics.nme_scores(features, means)


def phase_row(
    logits: torch.Tensor,
    features: torch.Tensor,
    labels: torch.Tensor,
    sizes: list[int],
    *,
    logits_before_align: torch.Tensor | None = None,
    means: torch.Tensor | None = None,
    predict: Literal["logits", "nme"] = "logits",
) -> dict:
    """Returns the accuracies after a phase, in percent, on the test images of all classes seen, by results.json's keys.

    logits (N, K), features (N, D) and labels (N,) of those images. sizes: how many classes each phase so far brought.
    logits_before_align: those of the model before it was aligned; None where nothing was aligned. means (K, D): of the
    exemplars, for the nearest class mean (NME); None without a memory. predict: what top1, balanced_top1, top5, the
    per-phase accuracies and new_share are judged by.
    new_share and new_share_before_align are fractions of all predictions; fair_share is the new_share of a model that
    is always right. A value is None where it has no meaning: old_top1 in phase 0, nme_top1 without means, what is
    before aligning where nothing was aligned.
    """
    num_old = sum(sizes) - sizes[-1]
    judged = scores(logits, features, means=means, predict=predict)                # (N, K)
    nearness = None if means is None else metrics.nme_scores(features, means)
    predictions = judged.argmax(dim=1)                                             # (N,)
    correct = predictions == labels
    before = logits_before_align
    phase_of_class = torch.repeat_interleave(torch.tensor(sizes))                  # (K,)
    old = labels < num_old
    return {
        "classes_seen": sum(sizes),
        "num_new": sizes[-1],
        "top1": metrics.accuracy(judged, labels),
        "balanced_top1": metrics.balanced_accuracy(correct, labels),
        "top5": metrics.accuracy(judged, labels, k=5),
        "nme_top1": None if nearness is None else metrics.accuracy(nearness, labels),
        "per_phase_top1": metrics.per_phase_accuracy(correct, phase_of_class[labels], len(sizes)),
        "old_top1": metrics.accuracy(judged[old], labels[old]) if num_old else None,
        "new_top1": metrics.accuracy(judged[~old], labels[~old]),
        "top1_before_align": None if before is None else metrics.accuracy(before, labels),
        "new_share": metrics.new_share(predictions, num_old),
        "new_share_before_align": None if before is None else metrics.new_share(before.argmax(1), num_old),
        "fair_share": metrics.new_share(labels, num_old),
    }


def split(row: dict, *, pairs: bool) -> tuple[dict, dict]:
    """Returns (row, classes): what results.json keeps of a phase's row, and what only the event "phase_end" says.

    row: a `phase_row` with what is measured on images kept for validation as "validation", if there are any; both with
    "confusion", the counts of `metrics.confusion`, and "judged": (scores (N, K), labels (N,)). The two are taken out,
    and "calibration" comes in, see `calibrating.measure`. classes: see `by_class`, which takes `pairs`.
    """
    kept = {key: value for key, value in row.items() if key not in _LARGE}
    validation = row.get("validation")
    if validation:
        kept["validation"] = {key: value for key, value in validation.items() if key not in _LARGE}
    kept["calibration"] = calibrating.measure(row["judged"], validation and validation["judged"])
    return kept, by_class(row["confusion"], pairs=pairs)


def row_norms(trained: Tree, finished: Tree) -> dict[str, list[float]]:
    """Returns {"before_align", "after_align"}: the norm of each class's row of the classifier, K numbers each.

    trained, finished: the params before and after aligning.
    """
    before, after = (params["classifier"]["weight"].flatten(1).norm(dim=1).tolist() for params in (trained, finished))
    return {"before_align": before, "after_align": after}


def by_class(confusion: torch.Tensor, *, pairs: bool) -> dict:
    """Returns what the event "phase_end" says about single classes, in the order in which they came.

    confusion: see `metrics.confusion`. Keys: class_top1, the accuracy of each class in percent, None for a class
    without a test image; and with `pairs` confusion, the counts above 0 as [target, prediction, count]: few numbers,
    since a class is confused with few others.
    """
    images, right = confusion.sum(dim=1).tolist(), confusion.diagonal().tolist()
    top1 = [round(100 * hits / count, 2) if count else None for hits, count in zip(right, images, strict=True)]
    if not pairs:
        return {"class_top1": top1}
    where = confusion.nonzero()                                                    # (P, 2)
    counts = confusion[where[:, 0], where[:, 1]]
    return {"class_top1": top1, "confusion": torch.cat([where, counts[:, None]], dim=1).tolist()}


def summary(rows: list[dict]) -> dict:
    """Returns the part of results.json that sums up the phases so far, in percent.

    rows: what `phase_row` returned for each phase. Keys: accuracy_matrix, average_incremental_accuracy, last_accuracy
    (the last top1), forgetting and backward_transfer (None for one phase). If all rows have "validation", a row on the
    images that are kept for it, the key validation has the same summary of these.
    """
    judged = [row["validation"] for row in rows if "validation" in row]
    validation = {"validation": summary(judged)} if rows and len(judged) == len(rows) else {}
    matrix = [row["per_phase_top1"] for row in rows]
    top1 = [row["top1"] for row in rows]
    return {
        "accuracy_matrix": matrix,
        "average_incremental_accuracy": metrics.average_incremental_accuracy(top1),
        "last_accuracy": top1[-1],
        "forgetting": metrics.forgetting(matrix),
        "backward_transfer": metrics.backward_transfer(matrix),
        **validation,
    }
