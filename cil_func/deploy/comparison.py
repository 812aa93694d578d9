"""Compares the answers of two models to the same images, class by class. Classes are matched by name.

A class that both models know is "kept", one that only the newer knows is "new", one that only the older knows is
"dropped". The two are compared on the images of the kept classes alone, where both can be right.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from cil_func import metrics

BINS = 15  # of the calibration error, as Guo et al. 2017 (arXiv:1706.04599) have it


class Answers(NamedTuple):
    """What one model says about N images.

    known: the names of its classes. predicted: the N names that it predicts. confidence: (N,), the probabilities that
    it gives to its predictions.
    """

    known: tuple[str, ...]
    predicted: Sequence[str]
    confidence: torch.Tensor


def answers_of(class_names: Sequence[str], probabilities: torch.Tensor) -> Answers:
    """Returns the Answers in probabilities (N, K); class_names: of the K columns. Of equal ones the first is taken."""
    confidence, columns = probabilities.max(dim=1) if len(probabilities) else (torch.zeros(0), torch.zeros(0))
    return Answers(tuple(class_names), [class_names[int(column)] for column in columns.tolist()], confidence)


def compare(labels: Sequence[str], old: Answers, new: Answers) -> dict[str, Any]:
    """Returns what became better and worse from an older model to a newer one, in types that JSON has.

    labels: the class names of the N images, each known to one of the models. old, new: the models' answers to them.
    Keys of the result, in which accuracies are in percent, and None where there is no image:

    classes       one entry a class, in the newer model's order, the dropped ones last: name, kind ("kept", "new" or
                  "dropped"), images, before, after, change (after - before, in points), negative_flips (images that
                  were right and are wrong now), positive_flips (the other way round), lost_to_new (images that are
                  taken for a new class now)
    kept, new     the same for all images of the kept classes together, and of the new ones; how many classes there are
    taken         one entry for each pair of a kept class and a new class that is predicted for images of it: "from",
                  "by", images, were_right (how many of them the older model had right); the most frequent first
    calibration   bins; kept: {before, after}, the expected calibration error of both models on the kept classes'
                  images, a fraction; all: that of the newer one on the images of all its classes; diagram: {before,
                  after}, what `metrics.calibration_bins` returns
    untested      the names of kept and new classes without an image
    """
    kinds = {name: "kept" if name in old.known else "new" for name in new.known}
    kinds |= {name: "dropped" for name in old.known if name not in kinds}
    truth = [kinds[name] for name in labels]
    before = torch.tensor([own == said for own, said in zip(labels, old.predicted, strict=True)], dtype=torch.bool)
    after = torch.tensor([own == said for own, said in zip(labels, new.predicted, strict=True)], dtype=torch.bool)
    to_new = torch.tensor([kinds[said] == "new" for said in new.predicted], dtype=torch.bool)
    rows: dict[str, list[int]] = {name: [] for name in kinds}
    for row, name in enumerate(labels):
        rows[name].append(row)
    of_kind = {kind: [row for row, own in enumerate(truth) if own == kind] for kind in ("kept", "new")}

    def line(kind: str, chosen: list[int]) -> dict[str, Any]:
        return _line(kind, before[chosen], after[chosen], to_new[chosen])

    return {
        "images": len(labels),
        "classes": [{"name": name, "kind": kind, **line(kind, rows[name])} for name, kind in kinds.items()],
        **{
            kind: {"classes": sum(own == kind for own in kinds.values()), **line(kind, chosen)}
            for kind, chosen in of_kind.items()
        },
        "taken": _taken(labels, of_kind["kept"], before, to_new, new.predicted),
        "calibration": _calibration(old.confidence, new.confidence, before, after, of_kind),
        "untested": [name for name, kind in kinds.items() if kind != "dropped" and not rows[name]],
    }


def fallen(compared: Mapping[str, Any], points: float) -> list[dict[str, Any]]:
    """Returns the entries of the kept classes whose accuracy has fallen by more than `points`, the worst first.

    compared: from `compare`.
    """
    found = [each for each in compared["classes"] if each["kind"] == "kept" and each["images"]]
    return sorted((each for each in found if -each["change"] > points), key=lambda each: each["change"])


def _line(kind: str, before: torch.Tensor, after: torch.Tensor, to_new: torch.Tensor) -> dict[str, Any]:
    """Returns the numbers of some images of one kind of class, see `compare`.

    before, after: (N,) bool, whether each model is right. to_new: (N,) bool, whether the newer one says a new class.
    """
    count, both = len(before), kind == "kept"

    def share(number: int) -> float | None:
        return 100 * number / count if count else None

    return {
        "images": count,
        "before": share(int(before.sum())) if kind != "new" else None,
        "after": share(int(after.sum())) if kind != "dropped" else None,
        # of the difference of counts: that of the two accuracies would be rounded twice
        "change": share(int(after.sum()) - int(before.sum())) if both else None,
        "negative_flips": metrics.negative_flips(before, after) if both else None,
        "positive_flips": metrics.negative_flips(after, before) if both else None,
        "lost_to_new": int(to_new.sum()) if both else None,
    }


def _taken(
    labels: Sequence[str], kept: list[int], before: torch.Tensor, to_new: torch.Tensor, predicted: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the entry "taken" of `compare`. kept: the rows of the kept classes' images; all else as there."""
    lost = [row for row in kept if to_new[row]]
    counts = Counter((labels[row], predicted[row]) for row in lost)
    right = Counter((labels[row], predicted[row]) for row in lost if before[row])
    return [
        {"from": name, "by": by, "images": count, "were_right": right[name, by]}
        for (name, by), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _calibration(
    sure_before: torch.Tensor,
    sure_after: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    of_kind: Mapping[str, list[int]],
) -> dict[str, Any]:
    """Returns the entry "calibration" of `compare`.

    sure_before, sure_after: (N,), the confidences. before, after: (N,) bool, which answers are right. of_kind: {kind:
    rows of its images}.
    """
    kept, everything = of_kind["kept"], sorted(of_kind["kept"] + of_kind["new"])
    models = {"before": (sure_before, before), "after": (sure_after, after)}

    def error(sure: torch.Tensor, right: torch.Tensor, rows: list[int]) -> float | None:
        return metrics.expected_calibration_error(sure[rows], right[rows], bins=BINS) if rows else None

    return {
        "bins": BINS,
        "kept": {key: error(*answers, kept) for key, answers in models.items()},
        "all": error(sure_after, after, everything),
        "diagram": {
            key: metrics.calibration_bins(sure[kept], right[kept], bins=BINS) if kept else []
            for key, (sure, right) in models.items()
        },
    }
