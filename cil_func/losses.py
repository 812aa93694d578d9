"""The losses of class-incremental learning: learn the labels, and don't forget the teacher.

    L = (1 - lambda) cross_entropy(new and old images, labels) + lambda distillation(old logits)

The teacher is the model after the last phase; lambda is set by the method (`methods.distillation`).

A classifier of the K classes seen, as `classifier.expand` makes it, needs no mask: give its logits (B, K) to
`cross_entropy`, and their first num_old columns, `logits[:, :num_old]`, to `distillation`, beside the teacher's.

For shapes that stay the same over the phases, the losses take an optional `mask`, (C,) bool, of the classes that take
part. With it, a classifier of full width has the loss and the gradients of one that is cut to these classes. The mask
is a tensor: its values change from phase to phase, while nothing is compiled again. `rows`, (B,) bool, does the same
for images, so that a last, smaller batch can be padded to the size of the others.

Values of tensors are not checked, since a compiled step can't branch on them. The caller must see to it that targets
are in [0, C), that their classes are in the mask, and that the mask has a class. float16 and bfloat16 logits are
converted, and the loss is float32 then; float32 and float64 logits keep their dtype.
"""

from typing import Literal

import torch
import torch.nn.functional as F

# Replaces masked logits. exp(-1e9 - x) is exactly 0 in float32 and float64 for every usual x, so a masked class has
# probability 0. It is finite, so that 0 * -1e9 = 0; with -inf it would be NaN.
_MASKED = -1e9


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    label_smoothing: float | torch.Tensor = 0.0,
    mask: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the mean over the batch of -sum_c q_c log softmax(logits)_c, where q is the smoothed label.

        q_c = (1 - label_smoothing) [c = target] + label_smoothing / (number of classes that take part)

    logits: (B, C). targets: (B,) integers in [0, C); other values are an index error, or undefined in a compiled step.
    Targets of rows that don't take part must be in [0, C) too.
    mask: (C,) bool, the classes that take part; None: all. rows: (B,) bool, the images that take part; None: all. With
    both, value and gradients are those of `logits[rows][:, mask]`, and the gradients of all other logits are exactly 0,
    whatever their values.
    label_smoothing: a number, or a 0-d tensor, whose range is not checked, for torch.func.
    Returns a 0-d tensor in nats. Works under torch.func.grad, vmap and torch.compile(fullgraph=True).
    Raises ValueError for shapes that don't fit, targets that are not integers, an empty batch, a label_smoothing that
    is a number outside [0, 1) or a tensor that is not 0-d.
    Source: Szegedy et al. 2016 (arXiv:1512.00567), section 7; equals torch.nn.functional.cross_entropy.
    """
    _check("cross_entropy", "logits", logits, mask)
    _check_targets("cross_entropy", logits, targets)
    if not _is_tensor("cross_entropy", "label_smoothing", label_smoothing) and not 0 <= label_smoothing < 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing}; it must be in [0, 1)")
    log_probs = F.log_softmax(_hide(taking_part(logits, rows), mask), dim=1)  # (B, C)
    loss = -_mean(log_probs.gather(1, targets.long()[:, None])[:, 0], rows)
    if isinstance(label_smoothing, torch.Tensor):
        label_smoothing = label_smoothing.to(loss.dtype)
    elif label_smoothing == 0:
        return loss
    # masked columns are left out of the sum, since their log_probs are -1e9 and not 0
    spread = log_probs.mean(dim=1) if mask is None else torch.where(mask, log_probs, 0.0).sum(dim=1) / mask.sum()
    return (1 - label_smoothing) * loss - label_smoothing * _mean(spread, rows)


def distillation(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    mask: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the soft cross-entropy of the student's predictions against the teacher's, which keeps old knowledge:

        mean over the batch of  -sum_c softmax(teacher / T)_c log softmax(student / T)_c

    student_logits, teacher_logits: (B, C), of the *old* classes only: cut to them, or use the mask. mask: (C,) bool,
    the classes that take part; None: all. rows: (B,) bool, the images that take part; None: all.
    temperature: T, a number, or a 0-d tensor, whose range is not checked, for torch.func. T above 1 softens both
    predictions, so that what the teacher says about the wrong classes counts more.
    groups: (C,) int64 from 0 to C - 1, for the sum over groups of classes of the value over each group alone, as EEIL
    has it (Castro et al. 2018, arXiv:1807.09536, section 3.2); None: all classes are one group.

    There is no factor T^2, since published recipes differ there: the method chooses the weight. The teacher's entropy
    is not subtracted; KL divergence subtracts it and has the same gradient with respect to the student. The gradient is
    not stopped at the teacher: differentiate with respect to the student only. Returns a 0-d tensor in nats, which is
    above 0 unless the teacher is certain. Works under torch.func.grad, vmap and torch.compile(fullgraph=True).
    Raises ValueError for unequal shapes, rows or groups that don't fit, an empty batch, a temperature that is a number
    not above 0 or not finite, or a tensor that is not 0-d.
    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2; Li & Hoiem 2016 (arXiv:1606.09282), eq. 2.
    """
    _check("distillation", "student_logits", student_logits, mask)
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)}"
        raise ValueError(f"distillation: student_logits {shapes} differ; cut both to the old classes")
    _check("distillation", "teacher_logits", teacher_logits, mask)
    softened = _is_tensor("distillation", "temperature", temperature)
    if not softened and not 0 < temperature < float("inf"):
        raise ValueError(f"distillation: temperature={temperature}; it must be above 0 and finite")
    # masked after the division, since a large temperature would make the constant as small as a logit
    student, taught = (_hide(taking_part(each, rows) / temperature, mask) for each in (student_logits, teacher_logits))
    if groups is not None:
        _check_vector("distillation", "groups", groups, student.shape[1], torch.int64)
        terms = _log_softmax_by_group(taught, groups).exp() * _log_softmax_by_group(student, groups)   # (B, C)
        return -_mean((terms if mask is None else torch.where(mask, terms, 0.0)).sum(dim=1), rows)
    log_student, teacher = F.log_softmax(student, dim=1), F.softmax(taught, dim=1)
    return -_mean((teacher * log_student).sum(dim=1), rows)


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, mask: torch.Tensor | None = None, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the mean over the batch of  -sum_c q_c log sigmoid(s_c) + (1 - q_c) log(1 - sigmoid(s_c)).

    logits s, targets q: (B, C), targets in [0, 1]. mask: (C,) bool, the classes c that are added up; None: all. rows:
    (B,) bool, the images that take part; None: all.
    Returns a 0-d tensor in nats. Works under torch.func and torch.compile(fullgraph=True).
    Raises ValueError for shapes that differ, rows that don't fit, or an empty batch.
    Source: Rebuffi et al. 2017 (arXiv:1611.07725), algorithm 3.
    """
    _check("binary_cross_entropy", "logits", logits, mask)
    _check_pair("binary_cross_entropy", logits, targets)
    logits = taking_part(logits, rows)
    terms = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")     # (B, C)
    return _mean((terms if mask is None else torch.where(mask, terms, 0.0)).sum(dim=1), rows)


def nca(
    logits: torch.Tensor, targets: torch.Tensor, *, mask: torch.Tensor | None = None, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns PODNet's classification loss, the mean over the batch of

        -(z_y - m) + log(1 + sum over c != y of exp(z_c - m)),   m = max over c of z_c

    logits z: (B, C). targets y: (B,) integers in [0, C). mask: (C,) bool, the classes c that take part, in m too; None:
    all. rows: (B,) bool, the images that take part; None: all.
    Returns a 0-d tensor. Raises ValueError for shapes that don't fit, targets that are not integers, or an empty batch.
    Works under torch.func and torch.compile(fullgraph=True).
    Source: Douillard et al. 2020 (arXiv:2004.13513), equation 7, as the authors' code computes it: its margin cancels,
    and it has no hinge.
    """
    _check("nca", "logits", logits, mask)
    _check_targets("nca", logits, targets)
    shifted = _hide(taking_part(logits, rows), mask)
    shifted = shifted - shifted.max(dim=1, keepdim=True).values                     # (B, C)
    own = F.one_hot(targets.long(), logits.shape[1]).bool()
    right = shifted.gather(1, targets.long()[:, None])[:, 0]                        # (B,)
    return _mean(torch.log1p(shifted.exp().masked_fill(own, 0.0).sum(1)) - right, rows)


def distance(
    first: torch.Tensor, second: torch.Tensor, *, rows: torch.Tensor | None = None, order: Literal[1, 2] = 2
) -> torch.Tensor:
    """Returns the mean over the batch of the distance between row i of `first` and row i of `second`, a 0-d tensor.

    first, second: (B, D). order: 2: the L2 distance; 1: L1, the sum of absolute differences. rows: (B,) bool, the rows
    that take part; None: all. Where two rows are equal the gradient is 0.
    Raises ValueError for shapes that differ or aren't 2-D, rows that don't fit, or an empty batch.
    """
    _check_pair("distance", first, second)
    first, second = taking_part(first, rows), taking_part(second, rows)
    if order == 1:
        return _mean((first - second).abs().sum(1), rows)
    squares = (first - second).square().sum(1)                                     # (B,)
    equal = squares == 0
    return _mean(torch.where(equal, 0.0, torch.where(equal, 1.0, squares).sqrt()), rows)


def cosine_distance(first: torch.Tensor, second: torch.Tensor, *, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the mean over the batch of 1 - cos of the angle between row i of `first` and row i of `second`, 0-d.

    first, second: (B, D); the cosine of a zero row is 0. rows: (B,) bool, the rows that take part; None: all. Raises
    ValueError as `distance` does.
    """
    _check_pair("cosine_distance", first, second)
    return _mean(1 - F.cosine_similarity(taking_part(first, rows), taking_part(second, rows)), rows)


def taking_part(logits: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Returns logits (B, C) with 0 in rows that don't take part; else an infinite one would have the gradient 0 * inf.

    float16 and bfloat16 become float32: -1e9 and sums over many classes need more precision. rows: (B,) bool; None: all
    take part. Raises ValueError for rows that don't fit.
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    _check_vector("losses", "rows", rows, len(logits), torch.bool)
    return wide if rows is None else torch.where(rows[:, None], wide, 0.0)


def _log_softmax_by_group(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Returns logits (B, C) minus the logarithm of the sum of exp(logits) over the classes of the same group."""
    index = groups.expand_as(logits)
    lowest = torch.zeros_like(logits)
    largest = lowest.scatter_reduce(1, index, logits.detach(), "amax", include_self=False).gather(1, index)
    shifted = logits - largest
    same = (groups[:, None] == groups).to(logits.dtype)                             # (C, C)
    return shifted - (shifted.exp() @ same).log()


def _is_tensor(function: str, name: str, value: float | torch.Tensor) -> bool:
    """Returns whether `value` is a tensor and not a number. Raises ValueError for a tensor that is not 0-d."""
    if not isinstance(value, torch.Tensor):
        return False
    if value.ndim:
        raise ValueError(f"{function}: {name} {tuple(value.shape)} is no single value; give a number or a 0-d tensor")
    return True


def _mean(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Returns the mean of values (B,) over the rows that count, 0 if none does. rows: (B,) bool; None: all count."""
    return values.mean() if rows is None else torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)


def _hide(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns logits in which classes outside the mask have probability 0 and gradient 0. mask: (C,) bool or None."""
    return logits if mask is None else torch.where(mask, logits, _MASKED)


def _check(function: str, name: str, logits: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raises ValueError unless logits are floating (B, C), B and C above 0, and mask is (C,) bool or None."""
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"{function}: {name} {tuple(logits.shape)} are not (B, C) with B and C at least 1")
    if not logits.is_floating_point():
        raise ValueError(f"{function}: {name} are {logits.dtype}; give floating-point logits")
    _check_vector(function, "mask", mask, logits.shape[1], torch.bool)


def _check_vector(function: str, name: str, given: torch.Tensor | None, length: int, dtype: torch.dtype) -> None:
    """Raises ValueError unless a tensor is (length,) of the dtype, or None."""
    if given is not None and (given.shape != (length,) or given.dtype != dtype):
        raise ValueError(f"{function}: {name} {tuple(given.shape)} {given.dtype}; it must be ({length},) {dtype}")


def _check_targets(function: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Raises ValueError unless targets are (B,) integers."""
    if targets.ndim != 1 or targets.shape[0] != logits.shape[0]:
        shapes = f"{tuple(targets.shape)} for logits {tuple(logits.shape)}"
        raise ValueError(f"{function}: targets {shapes}; targets must be ({logits.shape[0]},)")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"{function}: targets are {targets.dtype}; give class indices as integers")


def _check_pair(function: str, first: torch.Tensor, second: torch.Tensor) -> None:
    """Raises ValueError unless both are (B, D), B above 0: other shapes would be broadcast."""
    if first.ndim != 2 or first.shape != second.shape or not len(first):
        raise ValueError(f"{function}: {tuple(first.shape)} and {tuple(second.shape)} are not (B, D) both, B above 0")
