"""Pretrained weights of a backbone from a file: read without running any code in it, and checked name by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cil_func import tree
from cil_func.errors import DataError
from cil_func.networks import beside
from cil_func.networks.backbones import Backbone, InitBackbone
from cil_func.networks.timm_skeleton import Size

_HOLDERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")  # keys under which files have the weights
_SHOWN = 3


def refuse_missing(file: str | Path, *, setting: str = "model.weights") -> None:
    """Raises DataError if a file can't be opened. setting: the key of the configuration that names it."""
    try:
        open(file, "rb").close()
    except OSError as error:
        raise _unreadable(error, f"{setting}: {file}") from error


def _unreadable(error: OSError, where: str) -> DataError:
    return DataError(f"{where}: can't be read ({error.strerror or error}); name a file of weights")


def read(file: str | Path, *, setting: str = "model.weights") -> dict[str, torch.Tensor]:
    """Reads a file of weights. Returns {name: tensor}, on the CPU.

    file: .safetensors, or .pth, .pt or .bin as torch.save writes them; of the latter only tensors, numbers and texts
    are loaded, and no code is run. A table of weights inside, such as "state_dict", is taken, and "module." before all
    names is cut off. Of the model.safetensors of a run of this package it is the newest backbone.
    setting: the key of the configuration that names it, for messages.
    Raises DataError if the file can't be read or holds no weights.
    """
    where = f"{setting}: {file}"
    found: Any
    try:
        if os.fspath(file).endswith(".safetensors"):
            found = dict(safetensors.torch.load_file(file))
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(error, where) from error
    except Exception as error:  # the libraries raise many kinds
        code = "it holds more than tensors, which would run code" if "weights_only" in str(error) else "it is damaged"
        raise DataError(f"{where}: can't be loaded: {code}; save the state_dict, best as safetensors") from error
    while isinstance(found, Mapping) and (holder := next((key for key in _HOLDERS if _is_table(found, key)), None)):
        found = found[holder]
    if not isinstance(found, Mapping):
        raise DataError(f"{where}: holds {type(found).__name__} and no named weights")
    tensors = {str(name): leaf for name, leaf in found.items() if isinstance(leaf, torch.Tensor)}
    if not tensors:
        raise DataError(f"{where}: holds no weights")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): leaf for name, leaf in tensors.items()}
    return of_run(tensors)


def pretrained(
    net: Backbone, tensors: Mapping[str, torch.Tensor], *, file: str, name: str, setting: str = "model.weights"
) -> InitBackbone:
    """Returns a function like `Backbone.init` that gives these weights instead of random ones.

    tensors: from `read`; a classifier among them is left out. file, name, setting: of the weights, of the backbone, and
    the key that names the file, for messages. The function raises DataError if tensors are missing, unknown or of
    another shape.
    """

    def init(key: int, /, *, image_size: Size | None = None) -> tuple[tree.Tree, tree.Tree]:
        params, state = net.init(key, image_size=image_size)
        flat = [tree.to_paths(part) for part in (params, state)]
        names = net.saved_names(image_size)
        every = flat[0] | flat[1]
        wanted = {path: leaf for path, leaf in every.items() if names is None or path in names}
        others = every.keys() | (names or frozenset())  # a tensor of two names is one of `every` under one of them
        heads = tuple(f"{head}." for head in net.classifier())
        left_out = {path for path in tensors if path not in wanted and (path in others or f"{path}.".startswith(heads))}
        given = {path: leaf for path, leaf in tensors.items() if path not in left_out}
        _refuse_unfit(wanted, given, f"{setting}: {file} does not fit {name}")
        loaded = [{path: given[path].to(leaf) if path in given else leaf for path, leaf in p.items()} for p in flat]
        return tree.from_paths(loaded[0]), tree.from_paths(loaded[1])

    return init


def _refuse_unfit(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises DataError, one line that begins with `what`, if names or shapes differ. Counters may be missing."""
    missing = [path for path, leaf in wanted.items() if path not in given and leaf.is_floating_point()]
    unknown = [path for path in given if path not in wanted]
    other = [
        f"{path} {tuple(given[path].shape)} instead of {tuple(leaf.shape)}"
        for path, leaf in wanted.items() if path in given and given[path].shape != leaf.shape
    ]  # fmt: skip
    found = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", other)) if names
    ]  # fmt: skip
    if found:
        hint = "; weights may belong to one data.image_size" if other and not (missing or unknown) else ""
        raise DataError(f"{what}: {'; '.join(found)}{hint}")


def _is_table(found: Mapping, key: str) -> bool:
    return isinstance(found.get(key), Mapping)


def of_run(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the newest backbone of a model that a run of this package has saved; other tensors as they are.

    Earlier last stages, and a backbone that was trained beside it, are left out.
    """
    starts = ("params.backbone.", "state.backbone.")
    if not any(name.startswith(starts) for name in tensors):
        return tensors
    own = {name.split(".", 2)[2]: leaf for name, leaf in tensors.items() if name.startswith(starts)}
    own = {name.partition(".")[2]: leaf for name, leaf in own.items()}  # without the backbone's name
    return {name: leaf for name, leaf in own.items() if name.partition(".")[0] not in (beside.KEY, "earlier")}
