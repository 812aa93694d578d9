"""The linear classifier on top of the backbone, which grows by a few rows in each phase.

Class-incremental learning needs three things that an ordinary last layer doesn't have. The classifier must grow when
classes arrive (`expand`). Its shape must not change during training (`pad`, `head`). And its bias towards the newest
classes must be removed after training (`norms`, `align`).

Row c of the weight gives the logit of class c: logit_c = w_c . feature + b_c. New classes have thousands of training
images and old ones a few exemplars. So after training the new rows are longer than the old ones, the new logits are
larger, and most predictions name a new class. `align` corrects the lengths of the rows. `drop` takes the rows of some
classes away.

params is {"weight": (K, D), "bias": (K,)}: K classes in the order in which they came, D features.
Nothing here changes its arguments.
"""

import math
import operator
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from cil_func import rng, tree

Params = dict[str, torch.Tensor]


def init(key: int, feature_dim: int, num_classes: int) -> Params:
    """Draws a new classifier like `torch.nn.Linear(feature_dim, num_classes)`: from U(-1/sqrt(D), 1/sqrt(D)).

    key: an int, the seed of the draws, see `rng`. feature_dim: D. num_classes: K.
    Returns {"weight": (K, D), "bias": (K,)}, always float32 and on the CPU, so that a key gives the same numbers on
    every machine. `tree.cast` moves them to another device.
    Raises ValueError for feature_dim or num_classes below 1.
    Source: torch.nn.Linear.reset_parameters, kaiming_uniform_ with a = sqrt(5), whose bound is 1/sqrt(D).
    """
    if feature_dim < 1 or num_classes < 1:
        raise ValueError(f"init: feature_dim={feature_dim}, num_classes={num_classes}; both must be above 0")
    draws = rng.generator(key)
    bound = 1 / math.sqrt(feature_dim)
    weight = torch.empty(num_classes, feature_dim, dtype=torch.float32)
    bias = torch.empty(num_classes, dtype=torch.float32)
    weight.uniform_(-bound, bound, generator=draws)
    bias.uniform_(-bound, bound, generator=draws)
    return {"weight": weight, "bias": bias}


def apply(params: Params, features: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a batch, (B, K): features @ weight.T + bias.

    params: {"weight": (K, D), "bias": (K,)}. features: (B, D), floating point.
    Works under torch.func.grad, torch.func.vmap and torch.compile(fullgraph=True).
    Raises ValueError if features are not 2-D, not as wide as the weight or not floating point.
    """
    num_classes, feature_dim = _shape("apply", params)
    if features.ndim != 2:
        hint = "; give one row as features[None]" if features.ndim == 1 else ""
        raise ValueError(f"apply: features {tuple(features.shape)} are not (B, {feature_dim}){hint}")
    if features.shape[1] != feature_dim:
        raise ValueError(
            f"apply: features {tuple(features.shape)} do not fit a weight of {(num_classes, feature_dim)}; "
            f"features must be (B, {feature_dim})"
        )
    if not features.is_floating_point():
        raise ValueError(f"apply: features are {features.dtype}; give floating-point features")
    return F.linear(features, params["weight"], params["bias"])  # (B, K)


def expand(params: Params, key: int, num_new: int) -> Params:
    """Returns the classifier with rows added for the num_new classes of a new phase.

    params: {"weight": (K, D), "bias": (K,)}. key: an int seed, another one in each phase, else all phases draw the same
    rows.
    The result is a new tree with K + num_new rows, of the same dtype and on the same device, that shares no memory with
    params. Rows 0..K-1 and their biases are bit-identical. The last num_new rows are those of `init(key, D, num_new)`,
    which are what torch.nn.Linear(D, num_new) would start from.
    An optimiser's state has the shapes of the old tree: begin a new one, `optimiser.init(expanded params)`.
    Raises ValueError for num_new below 1.
    """
    _, feature_dim = _shape("expand", params)
    if num_new < 1:
        raise ValueError(f"expand: num_new={num_new}; a phase brings at least 1 class")
    new = init(key, feature_dim, num_new)
    return {name: torch.cat([old, new[name].to(old)]) for name, old in params.items()}


def norms(params: Params) -> torch.Tensor:
    """Returns the L2 norm of each class's weight row, (K, D) -> (K,). The bias doesn't count.

    After the training of a phase the norms of the new classes are higher than those of the old ones; `align` removes
    this step. Works under torch.func.grad (the gradient of a zero row is 0), vmap and compile.
    """
    _shape("norms", params)
    return torch.linalg.vector_norm(params["weight"], dim=1)


def align(params: Params, num_new: int) -> tuple[Params, torch.Tensor]:
    """Scales the newest rows so that old and new rows have the same mean norm. Returns (params, gamma).

        gamma = mean(norms of old rows) / mean(norms of new rows);    new rows <- gamma * new rows

    params: {"weight": (K, D), "bias": (K,)}, without rows of unseen classes: cut a classifier of full width with `head`
    first. num_new: the number of rows of the newest phase, which are the last ones, 0 < num_new < K.
    The result: a new tree, in which old rows and all biases are bit-identical, and a 0-d tensor, which is
    usually below 1. If all new rows are zero, gamma is 1. If all old rows are zero, gamma is 0, as the formula says.
    Of float16 and bfloat16 rows gamma is computed, and returned, in float32.
    Works under torch.func.grad, vmap and compile. Raises ValueError if num_new leaves no old or no new row.
    Source: Zhao et al. 2020 (arXiv:1911.07053), weight aligning, section 4.
    """
    num_classes, _ = _shape("align", params)
    if num_new >= num_classes:
        fault = "leaves no old class; call expand first"
        raise ValueError(f"align: {num_classes} rows, num_new={num_new} {fault}")
    if num_new < 1:
        raise ValueError(f"align: {num_classes} rows, num_new={num_new} leaves no new class; give 1 or more")
    num_old = num_classes - num_new
    weight = params["weight"]
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # gamma may be above float16's largest number
    row_norms = torch.linalg.vector_norm(wide, dim=1)
    old_norm, new_norm = row_norms[:num_old].mean(), row_norms[num_old:].mean()
    # The denominator is replaced too: otherwise the branch that `where` doesn't take would still divide by 0, and its
    # gradient would be 0 * inf = NaN.
    empty = new_norm == 0
    gamma = torch.where(empty, 1.0, old_norm / torch.where(empty, 1.0, new_norm))
    aligned = torch.cat([weight[:num_old], (wide[num_old:] * gamma).to(weight.dtype)])
    return {"weight": aligned, "bias": params["bias"].clone()}, gamma


def pad(params: Params, num_classes: int) -> Params:
    """Returns a new classifier of num_classes rows: the given K rows, bit-identical, then zero rows and zero biases.

    params: {"weight": (K, D), "bias": (K,)}. num_classes: of the whole run.
    A compiled step needs shapes that don't change. So training uses a classifier with a row for every class of the
    whole run, and a mask of the classes seen (`losses.cross_entropy(..., mask=...)`).
    Raises ValueError if num_classes < K.
    """
    known, _ = _shape("pad", params)
    if num_classes < known:
        raise ValueError(f"pad: {known} rows do not fit num_classes={num_classes}; give {known} or more")
    return {
        name: torch.cat([rows, rows.new_zeros(num_classes - known, *rows.shape[1:])]) for name, rows in params.items()
    }


def head(params: Params, num_classes: int) -> Params:
    """Returns the first num_classes rows of a classifier, {"weight", "bias"}. It undoes `pad`.

    The tensors are views of params: a change in place of one changes the other. Raises ValueError unless 0 <
    num_classes <= K.
    """
    known, _ = _shape("head", params)
    if not 0 < num_classes <= known:
        raise ValueError(f"head: num_classes={num_classes} of {known} rows; give 1 to {known}")
    return {name: rows[:num_classes] for name, rows in params.items()}


def drop(params: tree.Tree, rows: Iterable[int]) -> tree.Tree:
    """Returns a classifier without the rows of some classes; the others keep their order and their bits.

    params: {"weight": (K, D), "bias": (K,)}, or any tree whose leaves have the K classes as their first axis: several
    weight rows a class, (K, P, D), or class means, {"means": (K, D)}. A leaf without axes, such as a learned scale,
    belongs to no class and stays.
    rows: the indices of the rows that go, in any order; integers, or an integer tensor (R,).
    The result is a new tree that shares no memory with params. The kept logits don't change, but their softmax does:
    the probability that the dropped classes had is shared by the others.
    Raises ValueError for leaves with different numbers of classes, for no row, for a row that isn't there or comes
    twice, and for rows that leave no class.
    """
    axes = {len(leaf) for leaf in tree.leaves(params) if leaf.ndim}
    if len(axes) != 1:
        found = ", ".join(str(tuple(leaf.shape)) for leaf in tree.leaves(params))
        raise ValueError(f"drop: leaves {found or 'are missing'}; each needs the classes as its first axis, (K, ...)")
    (num_classes,) = axes
    gone = _row_indices(rows, num_classes)
    kept = [row for row in range(num_classes) if row not in gone]
    if not kept:
        raise ValueError(f"drop: {len(gone)} of {num_classes} rows leave no class; keep 1 or more")
    return tree.map(lambda leaf: leaf[kept] if leaf.ndim else leaf.clone(), params)


def _row_indices(rows: Iterable[int], num_classes: int) -> set[int]:
    """Returns the rows that `drop` takes away. Raises ValueError as it does."""
    given = rows.tolist() if isinstance(rows, torch.Tensor) else list(rows)
    if not given:
        raise ValueError(f"drop: no row of {num_classes}; give 1 or more")
    for row in given:
        if isinstance(row, bool) or not hasattr(row, "__index__") or not 0 <= operator.index(row) < num_classes:
            raise ValueError(f"drop: row {row!r} of {num_classes}; give indices from 0 to {num_classes - 1}")
    indices = [operator.index(row) for row in given]
    twice = sorted({row for row in indices if indices.count(row) > 1})
    if twice:
        raise ValueError(f"drop: row {twice[0]} comes twice; give each once")
    return set(indices)


def _shape(function: str, params: Params) -> tuple[int, int]:
    """Returns (K, D). Raises ValueError, which names `function`, if weight and bias are not (K, D) and (K,)."""
    weight, bias = params["weight"], params["bias"]
    if weight.ndim != 2 or bias.ndim != 1 or weight.shape[0] != bias.shape[0]:
        raise ValueError(
            f"{function}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} are not (K, D) and (K,)"
        )
    return weight.shape[0], weight.shape[1]
