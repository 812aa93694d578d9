"""The linear classifier on top of the backbone, which grows by a few rows in each phase.

Class-incremental learning needs three things that an ordinary last layer doesn't: it must *grow* when
classes arrive (`expand`), training must not see it change shape (`pad`, `head`), and the bias towards
the newest classes must be taken out of it afterwards (`norms`, `align`). Row c of the weight is what
class c's logit is measured with: logit_c = w_c . feature + b_c. New classes have thousands of training
images and old ones a handful of exemplars, so training leaves new rows longer than old ones, new logits
larger, and most predictions on new classes. `align` mends exactly that.

params is {"weight": (K, D), "bias": (K,)}: K classes in the order in which they came, D features.
Nothing here changes its arguments.
"""

import math

import torch
import torch.nn.functional as F

from cil_func import rng

Params = dict[str, torch.Tensor]


def init(key: int, feature_dim: int, num_classes: int) -> Params:
    """Draws a classifier as `torch.nn.Linear(feature_dim, num_classes)` would: U(-1/sqrt(D), 1/sqrt(D)).

    Returns {"weight": (K, D), "bias": (K,)}, float32 on the CPU whatever the machine, so that a key means
    the same numbers everywhere; `tree.cast` brings them elsewhere.
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
    """Logits of a batch: features @ weight.T + bias, (B, D) -> (B, K).

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
    """Adds rows for the classes of a new phase; what is known stays.

    params: {"weight": (K, D), "bias": (K,)}; key: a new one for each phase, or phases share their rows.
    Returns a new tree with K + num_new rows, dtype and device kept, no storage shared: rows 0..K-1 and
    their biases bit-identical, the last num_new as `init(key, D, num_new)` draws them. (Their bound
    depends on D alone, so they are what torch.nn.Linear(D, num_new) would start from.)
    Raises ValueError for num_new below 1.
    """
    _, feature_dim = _shape("expand", params)
    if num_new < 1:
        raise ValueError(f"expand: num_new={num_new}; a phase brings at least 1 class")
    new = init(key, feature_dim, num_new)
    return {name: torch.cat([old, new[name].to(old)]) for name, old in params.items()}


def norms(params: Params) -> torch.Tensor:
    """L2 norm of each class's weight row, (K, D) -> (K,). The bias takes no part.

    Works under torch.func.grad (the gradient of a zero row is 0), vmap and compile. Plotted over classes
    after training a phase, these show the step between old and new that `align` removes.
    """
    _shape("norms", params)
    return torch.linalg.vector_norm(params["weight"], dim=1)


def align(params: Params, num_new: int) -> tuple[Params, torch.Tensor]:
    """Scales the newest rows so that old and new have the same mean norm.

        gamma = mean(norms of old rows) / mean(norms of new rows);    new rows <- gamma * new rows

    params: {"weight": (K, D), "bias": (K,)}; num_new: rows of the newest phase, 0 < num_new < K. Only
    classes seen count: a classifier of full width is cut with `head` first.
    Returns (params, gamma): a new tree; old rows and all biases bit-identical; gamma a 0-d tensor, usually
    below 1. If all new rows are zero there is nothing to scale, and gamma is 1, not infinite; if all old
    rows are zero, gamma is 0, as the formula says.
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
    row_norms = norms(params)
    old_norm, new_norm = row_norms[:num_old].mean(), row_norms[num_old:].mean()
    # The denominator is made safe as well as the result: `where` alone would still divide by 0, and the
    # gradient of the branch not taken would be 0 * inf = NaN.
    empty = new_norm == 0
    gamma = torch.where(empty, 1.0, old_norm / torch.where(empty, 1.0, new_norm))
    weight = params["weight"]
    aligned = torch.cat([weight[:num_old], weight[num_old:] * gamma])
    return {"weight": aligned, "bias": params["bias"].clone()}, gamma


def pad(params: Params, num_classes: int) -> Params:
    """The same classifier at full width: zero rows and zero biases behind the known ones.

    A compiled step must not see shapes change, so training works on a classifier that has a row for every
    class there will ever be, and on a mask of those seen (`losses.cross_entropy(..., mask=...)`).
    Returns a new tree of num_classes rows; the first K bit-identical. Raises ValueError if num_classes < K.
    """
    known, _ = _shape("pad", params)
    if num_classes < known:
        raise ValueError(f"pad: {known} rows do not fit num_classes={num_classes}; give {known} or more")
    return {
        name: torch.cat([rows, rows.new_zeros(num_classes - known, *rows.shape[1:])])
        for name, rows in params.items()
    }


def head(params: Params, num_classes: int) -> Params:
    """The first num_classes rows: what is left of a full-width classifier when unseen classes are cut off.

    `head(pad(params, wide), K)` is params again. The tensors are *views* of params: whoever edits one in
    place edits the other. Raises ValueError unless 0 < num_classes <= K.
    """
    known, _ = _shape("head", params)
    if not 0 < num_classes <= known:
        raise ValueError(f"head: num_classes={num_classes} of {known} rows; give 1 to {known}")
    return {name: rows[:num_classes] for name, rows in params.items()}


def _shape(function: str, params: Params) -> tuple[int, int]:
    """(K, D); raises ValueError where weight and bias are not (K, D) and (K,)."""
    weight, bias = params["weight"], params["bias"]
    if weight.ndim != 2 or bias.ndim != 1 or weight.shape[0] != bias.shape[0]:
        raise ValueError(
            f"{function}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} are not (K, D) and (K,)"
        )
    return weight.shape[0], weight.shape[1]
