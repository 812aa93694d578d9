"""Measures of a phase and of a whole run. Accuracies are in percent. Nothing here is compiled.

After phase i the model is tested on the images of all classes seen so far. `accuracy_matrix[i][j]` is the accuracy on
the classes of phase j after phase i, for j <= i. A column shows how the classes of one phase are forgotten.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def average_incremental_accuracy(top1_per_phase: Sequence[float]) -> float:
    """Returns the mean over phases of the accuracy on all classes seen by then, the field's most quoted number.

    top1_per_phase: one number for each phase, the first one included. The mean is in the same unit (percent).
    Raises ValueError for an empty list or a number that is not finite.
    Source: Rebuffi et al. 2017 (iCaRL, arXiv:1611.07725), section 4.1.
    """
    values = [float(value) for value in top1_per_phase]
    if not values:
        raise ValueError("average_incremental_accuracy: no phase; give the top-1 of at least one")
    _check_finite("average_incremental_accuracy", values)
    return math.fsum(values) / len(values)


def forgetting(accuracy_matrix: Sequence[Sequence[float]]) -> float | None:
    """Returns how far the accuracy on the classes of old phases has fallen from its best.

        F = mean over j < T-1 of ( max over j <= i < T-1 of a[i][j]  -  a[T-1][j] ),   T phases

    accuracy_matrix: row i has the i + 1 accuracies after phase i. Returns a number in the same unit (percent), None for
    a single phase. The best is taken from *earlier* phases only, so the term of an old phase that ends better than ever
    is negative. Raises ValueError if there is no row, a row i without i + 1 entries, or a number that is not finite.
    Source: Chaudhry et al. 2018 (arXiv:1801.10112), eq. 3.
    """
    *earlier, final = _triangle("forgetting", accuracy_matrix)
    if not earlier:
        return None
    drops = [max(row[j] for row in earlier[j:]) - final[j] for j in range(len(earlier))]
    return math.fsum(drops) / len(drops)


def backward_transfer(accuracy_matrix: Sequence[Sequence[float]]) -> float | None:
    """Returns by how much later phases have changed the accuracy on earlier ones, in the unit of the matrix (percent).

        BWT = mean over i < T-1 of ( R[T-1][i] - R[i][i] ),   T phases

    accuracy_matrix: row i has the i + 1 accuracies after phase i. Below 0 where earlier phases were forgotten, above 0
    where later ones have helped. Unlike `forgetting`, it compares with the accuracy right after a phase was learned,
    and not with the best one.
    Returns None for a single phase. Raises ValueError as `forgetting` does.
    Source: Lopez-Paz and Ranzato 2017 (arXiv:1706.08840), eq. 3.
    """
    matrix = _triangle("backward_transfer", accuracy_matrix)
    changes = [matrix[-1][i] - matrix[i][i] for i in range(len(matrix) - 1)]
    return math.fsum(changes) / len(changes) if changes else None


def forward_transfer(accuracy_matrix: Sequence[Sequence[float]], baseline: Sequence[float]) -> float | None:
    """Returns by how much earlier phases have raised the accuracy on a phase that is not learned yet, in percent.

        FWT = mean over i > 0 of ( R[i-1][i] - b[i] ),   T phases

    accuracy_matrix: (T, T), R[i][j] is the accuracy on phase j after phase i, also for j > i. baseline: b, the T
    accuracies of a model with its initial weights.
    A run of this package has no such matrix: before a class is learned, the classifier has no row for it. The measure
    is for models that have all outputs from the start.
    Returns None for a single phase. Raises ValueError if the matrix has no row or isn't square, for a baseline of
    another length, or for a number that is not finite.
    Source: Lopez-Paz and Ranzato 2017 (arXiv:1706.08840), eq. 4.
    """
    matrix, start = [[float(value) for value in row] for row in accuracy_matrix], [float(value) for value in baseline]
    if not matrix or any(len(row) != len(matrix) for row in matrix) or len(start) != len(matrix):
        raise ValueError(
            f"forward_transfer: {len(matrix)} rows of {[len(row) for row in matrix]} entries and a baseline of "
            f"{len(start)}; give T rows of T entries, T at least 1, and T baselines"
        )
    for row in (*matrix, start):
        _check_finite("forward_transfer", row)
    gains = [matrix[i - 1][i] - start[i] for i in range(1, len(matrix))]
    return math.fsum(gains) / len(gains) if gains else None


def correct(scores: torch.Tensor, targets: torch.Tensor, *, k: int = 1) -> torch.Tensor:
    """Returns for each image whether its target is among the k classes with the highest scores, (N,) bool.

    scores: (N, K). targets: (N,) class indices. With k >= K all are correct. Of equal scores the lower class comes
    first, as in argmax; so a model whose scores are all 0 is not correct everywhere. Scores may be -inf, for classes
    that are excluded.
    Raises ValueError for shapes that don't fit, no image, k below 1, NaN, or a target outside [0, K).
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or 0 in scores.shape:
        raise ValueError(
            f"correct: scores {tuple(scores.shape)} and targets {tuple(targets.shape)}; "
            "give (N, K) and (N,) with at least 1 image and 1 class"
        )
    if k < 1:
        raise ValueError(f"correct: k={k}; give 1 or more")
    if scores.isnan().any():
        raise ValueError("correct: scores hold NaN; the model that made them has diverged")
    targets = targets.long()
    _check_range("correct", "targets", targets, scores.shape[1])
    own = scores.gather(1, targets[:, None])  # (N, 1)
    lower = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]  # (N, K)
    rank = ((scores > own) | ((scores == own) & lower)).sum(dim=1)  # (N,), 0 is the best
    return rank < k


def accuracy(scores: torch.Tensor, targets: torch.Tensor, *, k: int = 1) -> float:
    """Returns the top-k accuracy in percent: how many images have their target among the k highest scores.

    scores: (N, K). targets: (N,) class indices. With k >= K it is 100. Raises ValueError as `correct` does.
    """
    return _percent(correct(scores, targets, k=k))


def balanced_accuracy(correct: torch.Tensor, targets: torch.Tensor) -> float:
    """Returns the mean of the classes' accuracies in percent: all count the same, however many images they have.

    correct: (N,) bool, whether each image was classified rightly, see `correct`. targets: (N,) class indices, 0 or
    more. A class without a test image doesn't count. Raises ValueError for shapes that differ, no image, or a negative
    target.
    """
    if correct.ndim != 1 or correct.shape != targets.shape or not len(correct):
        raise ValueError(
            f"balanced_accuracy: correct {tuple(correct.shape)} and targets {tuple(targets.shape)}; "
            "give (N,) and (N,) with at least 1 image"
        )
    _check_bool("balanced_accuracy", "correct", correct)
    targets = targets.long()
    if targets.min() < 0:
        raise ValueError(f"balanced_accuracy: a target is {targets.min()}; they must be 0 or more")
    counts = torch.bincount(targets)  # (K,)
    hits = torch.bincount(targets[correct], minlength=len(counts))  # (K,)
    tested = counts > 0
    return 100 * (hits[tested].double() / counts[tested]).mean().item()


def per_phase_accuracy(correct: torch.Tensor, phase_of: torch.Tensor, num_phases: int) -> list[float]:
    """Returns the accuracy in percent on the classes of each phase, num_phases numbers: a row of the accuracy matrix.

    correct: (N,) bool, see `correct`. phase_of: (N,) integers, the phase in which the class of each test image came.
    Raises ValueError for shapes that differ, a phase outside [0, num_phases), or one without test images.
    """
    if correct.ndim != 1 or correct.shape != phase_of.shape:
        raise ValueError(
            f"per_phase_accuracy: correct {tuple(correct.shape)} and phase_of {tuple(phase_of.shape)}; "
            "give (N,) and (N,)"
        )
    _check_bool("per_phase_accuracy", "correct", correct)
    _check_range("per_phase_accuracy", "phase_of", phase_of, num_phases)
    row = []
    for phase in range(num_phases):
        of_phase = correct[phase_of == phase]
        if not len(of_phase):
            raise ValueError(f"per_phase_accuracy: phase {phase} of {num_phases} has no test image")
        row.append(_percent(of_phase))
    return row


def confusion(predictions: torch.Tensor, targets: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns how often each class was named for the images of each class: (K, K) int64, entry [target, prediction].

    predictions, targets: (N,) class indices below num_classes. num_classes: K.
    Raises ValueError for shapes that differ or an index outside [0, K).
    """
    if predictions.ndim != 1 or predictions.shape != targets.shape:
        raise ValueError(
            f"confusion: predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)}; give (N,) and (N,)"
        )
    _check_range("confusion", "predictions", predictions, num_classes)
    _check_range("confusion", "targets", targets, num_classes)
    pairs = targets.long() * num_classes + predictions.long()  # (N,)
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def new_share(predictions: torch.Tensor, num_old: int) -> float:
    """Returns the fraction, 0 to 1, of predictions that name a class of the newest phase.

    predictions: (N,) class indices in order of arrival. num_old: how many classes are old, so the newest ones have the
    indices num_old and above.
    For a model without errors it is the newest classes' share of the test images. Before aligning, a model that was
    trained on few exemplars is far above that.
    Raises ValueError for no prediction, or num_old below 0.
    """
    if predictions.ndim != 1 or not len(predictions) or num_old < 0:
        raise ValueError(
            f"new_share: predictions {tuple(predictions.shape)}, num_old={num_old}; "
            "give (N,) with N at least 1, and num_old of 0 or more"
        )
    return (predictions >= num_old).sum().item() / len(predictions)


def calibration_bins(
    confidence: torch.Tensor, correct: torch.Tensor, *, bins: int = 15
) -> list[tuple[int, float, float]]:
    """Returns (number of predictions, their mean confidence, the share of them that is right) for each bin.

    confidence: (N,), the probability that a model gives to its own prediction, in [0, 1]. correct: (N,) bool.
    bins: M, the number of bins of equal width; bin m holds confidences in (m/M, (m+1)/M], the first one 0 too. An empty
    bin is (0, 0.0, 0.0). Drawn as a reliability diagram, a calibrated model lies on the diagonal.
    Edges are rounded as confidences of this dtype are.
    Raises ValueError for shapes that differ, no prediction, bins below 1, or a confidence outside [0, 1].
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ValueError(
            f"calibration_bins: confidence {tuple(confidence.shape)} and correct {tuple(correct.shape)}; "
            "give (N,) and (N,) with at least 1 prediction"
        )
    _check_bool("calibration_bins", "correct", correct)
    if bins < 1:
        raise ValueError(f"calibration_bins: bins={bins}; give 1 or more")
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins  # (M - 1,)
    if confidence.is_floating_point():
        edges = edges.to(confidence.dtype).double()
    confidence = confidence.double()
    if not ((confidence >= 0) & (confidence <= 1)).all():  # a NaN is neither
        raise ValueError("calibration_bins: a confidence is outside [0, 1]; give probabilities")
    places = torch.bucketize(confidence, edges)  # (N,), not by a product, whose rounding may cross an edge
    counts = torch.bincount(places, minlength=bins)
    sums = (torch.bincount(places, value.double(), minlength=bins) for value in (confidence, correct))
    means = [(total / counts.clamp(min=1)).tolist() for total in sums]
    return list(zip(counts.tolist(), *means, strict=True))


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor, *, bins: int = 15) -> float:
    """Returns how far a model's confidence is from the share of its predictions that are right, a fraction in [0, 1].

        ECE = sum over bins m of |B_m| / N * | accuracy(B_m) - confidence(B_m) |

    confidence, correct, bins: as `calibration_bins` takes them, whose errors it raises.
    0 says that, of the predictions with 80 % confidence, 80 % are right; it doesn't say that many are right.
    Source: Guo et al. 2017 (arXiv:1706.04599), eq. 3.
    """
    found = calibration_bins(confidence, correct, bins=bins)
    return math.fsum(count * abs(right - sure) for count, sure, right in found) / len(confidence)


def negative_flips(correct_before: torch.Tensor, correct_after: torch.Tensor) -> int:
    """Returns how many of the same images an older model classified rightly and a newer one doesn't.

    correct_before, correct_after: (N,) bool, of the two models on the same images. Divided by N it is the negative flip
    rate; with the arguments exchanged it counts the images that the newer model has learned.
    An accuracy that stays the same may hide many flips. Raises ValueError for shapes that differ.
    Source: Yan et al. 2021 (arXiv:2011.09161), who call them so.
    """
    if correct_before.shape != correct_after.shape or correct_before.ndim != 1:
        shapes = f"{tuple(correct_before.shape)} and {tuple(correct_after.shape)}"
        raise ValueError(f"negative_flips: {shapes}; give (N,) and (N,), of the same images")
    _check_bool("negative_flips", "correct_before", correct_before)
    _check_bool("negative_flips", "correct_after", correct_after)
    return int((correct_before & ~correct_after).sum())


def class_means(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns the mean of each class's L2-normalised features, L2-normalised again: (num_classes, D).

    features: (M, D), of the exemplars. labels: (M,) in [0, num_classes). The means are float64, on the device of the
    features. Zero rows and zero means stay zero.
    Raises ValueError for shapes that don't fit, labels out of range, or classes without a row, by number.
    Source: iCaRL (arXiv:1611.07725), algorithm 1 and section 2.1.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"class_means: features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (M, D) and (M,)"
        )
    labels = labels.long()
    _check_range("class_means", "labels", labels, num_classes)
    counts = torch.bincount(labels, minlength=num_classes)  # (K,)
    missing = (counts == 0).nonzero()[:, 0].tolist()
    if missing:
        raise ValueError(f"class_means: no row for classes {missing}; each class needs at least 1 exemplar")
    units = _unit(features)
    # a product with the one-hot matrix, since index_add sums in a varying order on CUDA
    sums = F.one_hot(labels, num_classes).to(units.dtype).T @ units  # (K, M) @ (M, D)
    return _unit(sums / counts[:, None])


def nme_scores(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Returns the scores of the prediction by the nearest mean of exemplars (NME): - || f / ||f|| - mean_c ||^2.

    features: (N, D), which are normalised here. means: (K, D) from `class_means`. The scores are (N, K), and the
    prediction is their argmax, as for logits. The classifier is not used, so its bias doesn't matter. Scores are
    float64, since the means of similar classes may differ by less than float32 can represent.
    Works under torch.func.vmap. Raises ValueError for shapes that don't fit. Source: iCaRL (arXiv:1611.07725),
    algorithm 1.
    """
    if features.ndim != 2 or means.ndim != 2 or features.shape[1] != means.shape[1]:
        raise ValueError(
            f"nme_scores: features {tuple(features.shape)} and means {tuple(means.shape)}; give (N, D) and (K, D)"
        )
    # Moving everything by one vector doesn't change distances. Near the origin fewer digits cancel in the squares.
    centre = means.double().mean(dim=0)  # (D,)
    units, means = _unit(features) - centre, means.double() - centre
    return 2 * units @ means.T - means.square().sum(dim=1) - units.square().sum(dim=1, keepdim=True)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Returns rows divided by their L2 norms, float64. Zero rows stay zero."""
    return F.normalize(rows.double(), dim=1, eps=1e-150)  # far below float32, and its square is above 0


def _percent(correct: torch.Tensor) -> float:
    """Returns the share of true entries in percent. correct: (N,) bool. Only the last operation, a division, rounds."""
    return 100 * correct.sum().item() / len(correct)


def _triangle(function: str, accuracy_matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Returns the matrix as lists of floats. Raises ValueError unless row i has i + 1 numbers, all finite."""
    matrix = [[float(value) for value in row] for row in accuracy_matrix]
    if not matrix:
        raise ValueError(f"{function}: no row; give one for each phase")
    for i, row in enumerate(matrix):
        if len(row) != i + 1:
            raise ValueError(f"{function}: row {i} has {len(row)} entries; after phase {i} there are {i + 1}")
        _check_finite(function, row)
    return matrix


def _check_finite(function: str, values: list[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{function}: {values} holds a number that is not finite")


def _check_bool(function: str, name: str, given: torch.Tensor) -> None:
    """Raises ValueError unless a tensor is bool: predictions and 0 or 1 would be taken for row numbers."""
    if given.dtype != torch.bool:
        raise ValueError(f"{function}: {name} is {given.dtype}; give bool, such as predictions == targets")


def _check_range(function: str, name: str, indices: torch.Tensor, stop: int) -> None:
    if not len(indices):
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= stop:
        raise ValueError(f"{function}: {name} from {low} to {high}; they must be in [0, {stop})")
