"""What functions of a method or optimiser return, checked: a slip would go unnoticed, or show far from its place."""

import json
import math
from collections.abc import Iterator
from typing import Any

import torch

from cil_func.errors import OwnCodeError
from cil_func.methods.base import Method
from cil_func.methods.extra import LOGITS, Extra
from cil_func.networks.head import BeginPhase
from cil_func.networks.outputs import Classes
from cil_func.tree import Tree

_DTYPES = (  # those that a checkpoint can hold
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip
_FITTING = ", ".join(str(each).removeprefix("torch.") for each in _DTYPES)


def scalar(loss: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns what a loss returned, in the dtype of `like`, that of the weights: another one would become theirs.

    Raises OwnCodeError unless it is a 0-d tensor.
    """
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else shown(loss)
        raise OwnCodeError(f"method.name: a loss returned {what}; a 0-d tensor fits, the mean over the images")
    return loss.to(like.dtype)


def finish(method: Method, params: Tree, num_new: int) -> tuple[Tree, float | None]:
    """Returns (params, gamma) by `Method.finish`. Raises OwnCodeError if that returns anything else."""
    found: Any = method.finish(params, num_new)
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], dict)):
        raise OwnCodeError(f"method.name: finish of {method.name} returned {shown(found)}; (params, gamma) fits")
    finished = alike(found[0], params, f"finish of {method.name}")
    what = f"method.name: finish of {method.name} returned {shown(found[1])} as gamma; a number or None fits"
    try:
        gamma = None if found[1] is None else float(found[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise OwnCodeError(what) from error
    if gamma is not None and not math.isfinite(gamma):
        raise OwnCodeError(what)
    return finished, gamma


def fitted(found: Any, params: Tree, device: torch.device) -> tuple[Tree, Tree]:
    """Returns (params, extra) that `Extra.fit` returned. params: what it was given.

    Raises OwnCodeError as `alike` and `remembered` do, and if there are no such two.
    """
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        raise OwnCodeError(f"method.name: extra's fit returned {shown(found)}; (params, extra) fits")
    return alike(found[0], params, "extra's fit"), remembered(found[1], "fit", device)


def begin(method: Method) -> BeginPhase:
    """Returns `Method.begin`, whose result is checked by `alike`."""

    def checked(params: Tree, num_new: int, phase: int, key: int) -> Tree:
        return alike(method.begin(params, num_new, phase, key), params, f"begin of {method.name}")

    return checked


def alike(found: Any, given: Tree, function: str) -> Tree:
    """Returns a tree that a method's function made of another one, in the dtypes and on the device of that one.

    given: nested dicts of tensors. function: what was called, for the message.
    Raises OwnCodeError unless the paths and shapes are those of `given`: training would go on with others.
    """
    came, before = dict(_leaves(found)), dict(_leaves(given))
    for path in [*before, *came]:
        if path not in came or path not in before:
            what = "something" if path in came else "nothing"
            raise OwnCodeError(f"method.name: {function} returned {what} under {shown(path)}; the given parts fit")
        came[path] = like(came[path], before[path], f"{function} returned, under {shown(path)},")
    return _rebuilt(given, came)


def _rebuilt(given: Tree, leaves: dict[str, torch.Tensor], path: str = "") -> Tree:
    """Returns a tree like `given`, of nested dicts, with other leaves. leaves: {path: leaf}."""
    if not isinstance(given, dict):
        return leaves[path]
    return {key: _rebuilt(part, leaves, f"{path}.{key}" if path else key) for key, part in given.items()}


def like(new: Any, old: torch.Tensor, returned: str) -> torch.Tensor:
    """Returns a tensor in the dtype and on the device of an older one, in whose place it comes.

    returned: how the message of OwnCodeError begins, which is raised unless it is a tensor of that shape.
    """
    if not isinstance(new, torch.Tensor) or new.shape != old.shape:
        what = f"a tensor {tuple(new.shape)}" if isinstance(new, torch.Tensor) else shown(new)
        raise OwnCodeError(f"method.name: {returned} {what}; a tensor {tuple(old.shape)} fits")
    return new.to(old)


def tensors(found: Tree, what: str, device: torch.device) -> dict[str, Any]:
    """Returns a dict of tensors, or of trees of them, on a device: a user's own function may have made some on the CPU.

    what: returned it, for the message. Raises OwnCodeError if it is no dict, or for what a checkpoint can't hold: a
    leaf that is no tensor, or a complex or sparse one, a key that is no text or holds a dot.
    """
    if not isinstance(found, dict):
        raise OwnCodeError(f"{what} returned {shown(found)}; a dict of tensors fits")
    return _tensors(found, what, device)


def _tensors(found: Any, what: str, device: torch.device, path: str = "") -> Any:
    """Returns a part of what `tensors` is given, which is under this path."""
    if isinstance(found, dict):
        for key in found:
            if not isinstance(key, str) or "." in key:
                raise OwnCodeError(f"{what} returned a part under the key {shown(key)}; a text without a dot fits")
        return {key: _tensors(part, what, device, f"{path}.{key}" if path else key) for key, part in found.items()}
    if not isinstance(found, torch.Tensor):
        raise OwnCodeError(f"{what} returned {shown(found)} under {shown(path)}; a tensor fits")
    if found.dtype not in _DTYPES or found.layout != torch.strided:
        kind = str(found.layout if found.dtype in _DTYPES else found.dtype).removeprefix("torch.")
        raise OwnCodeError(f"{what} returned a {kind} tensor under {shown(path)}; a dense one of {_FITTING} fits")
    return found.to(device)


def begun(extra: Extra, before: Tree, params: Tree, classes: Classes) -> Tree:
    """Returns what is remembered while a phase trains. before: what was after the last phase; {}: nothing yet.

    params, classes: see `methods.extra.BeginExtra`. Raises OwnCodeError as `remembered` does.
    """
    device = classes.seen.device
    before = before or remembered(extra.start(params), "start", device)
    return remembered(extra.begin(before, params, classes), "begin", device)


def remembered(found: Tree, function: str, device: torch.device) -> Tree:
    """Returns what a function of `Extra` returned, on a device. function: its name.

    Raises OwnCodeError unless it is a dict of tensors, without the part that has the exemplars' logits.
    """
    what = f"method.name: extra's {function}"
    found = tensors(found, what, device)
    if LOGITS in found:
        taken = f'"{LOGITS}", the name of the stored logits of exemplars'
        raise OwnCodeError(f"{what} returned a part called {taken}; give it another name")
    return found


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of a tree, whatever its leaves are."""
    if isinstance(part, (dict, list, tuple)):
        for key, inside in part.items() if isinstance(part, dict) else enumerate(part):
            yield from _leaves(inside, f"{path}.{key}" if path else str(key))
    elif part is not None:
        yield path, part


def shown(value: Any) -> str:
    """Returns a value as a message has it: a string in quotes, a number, true, false or None; of others the type."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (str, int, float)):
        return json.dumps(value, ensure_ascii=False)
    return "None" if value is None else f"a {type(value).__name__}"
