"""What a method's loss and its `finish` return, checked: a slip would go unnoticed, or show far from its place."""

from typing import Any

import torch

from cil_func.errors import OwnCodeError
from cil_func.methods.base import Method
from cil_func.tree import Tree


def scalar(loss: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns what a loss returned, in the dtype of `like`, that of the weights: another one would become theirs.

    Raises OwnCodeError unless it is a 0-d tensor.
    """
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _shown(loss)
        raise OwnCodeError(f"method.name: a loss returned {what}; a 0-d tensor fits, the mean over the images")
    return loss.to(like.dtype)


def finish(method: Method, params: Tree, num_new: int) -> tuple[Tree, float | None]:
    """Returns (params, gamma) by `Method.finish`. Raises OwnCodeError if that returns anything else."""
    found: Any = method.finish(params, num_new)
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], dict)):
        raise OwnCodeError(f"method.name: finish of {method.name} returned {_shown(found)}; (params, gamma) fits")
    try:
        return found[0], None if found[1] is None else float(found[1])
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"method.name: finish of {method.name} returned {_shown(found[1])} as gamma; a number or None fits"
        raise OwnCodeError(what) from error


def _shown(value: Any) -> str:
    """Returns a value as a message has it."""
    return repr(value) if isinstance(value, (str, int, float)) or value is None else f"a {type(value).__name__}"
