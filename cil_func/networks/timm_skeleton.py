"""timm modules without weights: a call borrows one, and `torch.func.functional_call` puts the call's tensors into it.

A skeleton is on the meta device. It is made in a thread of its own, because a transform (`torch.func.grad`, `vmap`), a
mode (`torch.device`, `torch.export`'s) and a trace of torch.compile all belong to the thread of the caller.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from cil_func.errors import ConfigError

Size = tuple[int, int]  # (H, W)


class Drop(NamedTuple):
    """How often a timm model in train mode drops something, 0 to below 1.

    rate: features (dropout); path_rate: a whole block, for an image (stochastic depth), less in the first blocks.
    Where both are 0, every layer that draws is switched off: attention dropout, DropBlock and patch dropout too.
    """

    rate: float = 0.0
    path_rate: float = 0.0


OFF = Drop()


class Facts(NamedTuple):
    """feature_dim: the width D of the pooled features; batch_norm: whether images of a batch share statistics.

    drops: whether it has, in timm, rates of its own that aren't 0, which `create` sets to 0.
    """

    feature_dim: int
    batch_norm: bool
    drops: bool


@contextmanager
def borrow(name: str, image_size: Size | None, *, train: bool, drop: Drop = OFF) -> Iterator[torch.nn.Module]:
    """Yields a skeleton in train or eval mode that no other call uses meanwhile: functional_call writes into it.

    image_size: of the images, where `takes_size(name)`, else None. Raises ConfigError as `create` does.
    """
    key = (name, image_size, train, drop)
    try:
        module = _free[key].pop()  # pop and append of a list are atomic
    except IndexError:
        module = new(*key)
    try:
        yield module
    finally:
        _free[key].append(module)


def new(name: str, image_size: Size | None, train: bool, drop: Drop = OFF) -> torch.nn.Module:
    """A skeleton of the caller's own, see `borrow`."""
    return _elsewhere(_copy, name, image_size, train, drop)


def takes_size(name: str) -> bool:
    """Whether the shapes of the model's parameters follow from the images' size; ConfigError for an unknown name."""
    if name not in _takes_size:
        _takes_size[name] = _elsewhere(_try_size, name)
    return _takes_size[name]


def facts(name: str) -> Facts:
    """What a run has to know of a model before it is trained. Raises ConfigError for an unknown name."""
    module = _elsewhere(_prototype, name, None, OFF)
    return Facts(
        getattr(module, "head_hidden_size", None) or module.num_features,
        any(isinstance(part, _BatchNorm) or hasattr(part, "running_var") for part in module.modules()),
        hasattr(module, "switched_off"),
    )


def draws(name: str, image_size: Size, drop: Drop = OFF) -> bool:
    """Whether the model draws random numbers in train mode. Runs it on the meta device, which takes no arithmetic.

    Raises ValueError, which says why, if it can't take images of this size; ConfigError as `create` does,
    and for a rate that changes nothing.
    """
    return _elsewhere(_draws, name, image_size, drop)


def create(name: str, image_size: Size | None = None, drop: Drop = OFF) -> torch.nn.Module:
    """timm's model without its classifier, in train mode. image_size: None for the model's own.

    Raises ConfigError if timm has no such model, or if it has no layer of a rate that isn't 0.
    """
    import timm  # late: it costs seconds, and the CIFAR ResNets don't need it

    if not timm.is_model(name):
        near = ", ".join(_nearest(name, timm.list_models()))
        raise ConfigError(f'model.backbone: "timm:{name}" is no model of timm {timm.__version__}; near it: {near}')
    options: dict[str, Any] = {} if image_size is None else {"img_size": _side(image_size)}
    if any(drop):
        options |= {"drop_rate": drop.rate, "drop_path_rate": drop.path_rate}
    while True:
        try:
            module = timm.create_model(name, pretrained=False, num_classes=0, **options)
            break
        except TypeError as error:  # an argument that this model doesn't have
            refused = next((key for key in options if f"'{key}'" in str(error)), None)
            if refused is None:
                raise
            if refused == "img_size" or options.pop(refused):
                raise ConfigError(f"model.{refused}: timm:{name} has no such rate; 0 fits") from error
    return module if any(drop) else _switch_off(module)


def _side(image_size: Size) -> int | Size:
    """An image size as timm takes it: some models know square images only, and take one number."""
    return image_size[0] if image_size[0] == image_size[1] else image_size


def _nearest(name: str, known: list[str]) -> list[str]:
    """The three names most like `name`; of equally near ones the first by the alphabet."""
    matcher = difflib.SequenceMatcher(b=name.lower(), autojunk=False)
    ratios = {}
    for candidate in known:
        matcher.set_seq1(candidate)
        ratios[candidate] = matcher.ratio()
    return sorted(known, key=lambda candidate: (-ratios[candidate], candidate))[:3]


def _switch_off(module: torch.nn.Module) -> torch.nn.Module:
    """Sets the rate of each layer that draws to 0, in place; if any was another, the module gets `switched_off`."""
    for part in list(module.modules()):
        layer = "drop" in type(part).__name__.lower()  # Dropout, DropPath, PatchDropout, DropBlock2d, ResidualDrop, ...
        for attribute, value in list(vars(part).items()):
            if isinstance(value, float) and ("drop" in attribute or (layer and attribute in ("p", "prob"))):
                setattr(part, attribute, 0.0)
                if value:
                    module.switched_off = True
    return module


_free: defaultdict[tuple, list[torch.nn.Module]] = defaultdict(list)
_prototypes: dict[tuple, torch.nn.Module] = {}
_takes_size: dict[str, bool] = {}


def _elsewhere(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), run by a new thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="timm") as pool:
        return pool.submit(function, *arguments).result()


def _try_size(name: str) -> bool:
    try:
        with torch.device("meta"):
            create(name, (224, 224))
    except ConfigError:
        import timm

        if not timm.is_model(name):
            raise
        return False
    except Exception:  # it takes a size, if not this one
        return True
    return True


def _prototype(name: str, image_size: Size | None, drop: Drop) -> torch.nn.Module:
    """The skeleton that the others are copies of: a copy takes a tenth of the time."""
    key = (name, image_size, drop)
    if key not in _prototypes:
        with torch.device("meta"):
            _prototypes[key] = create(*key)
    return _prototypes[key]


def _copy(name: str, image_size: Size | None, train: bool, drop: Drop) -> torch.nn.Module:
    return deepcopy(_prototype(name, image_size, drop)).train(train)


def _draws(name: str, image_size: Size, drop: Drop) -> bool:
    width, modes, watch = facts(name).feature_dim, (False, True), _Watch()
    for train in modes:
        try:
            module = _copy(name, image_size if takes_size(name) else None, train, drop)
            _refuse_cut_patches(module, image_size)
            with watch:
                features = module(torch.empty(2, 3, *image_size, device="meta"))
        except ConfigError:
            raise
        except NotImplementedError:  # an operation that the meta device lacks: nothing is known
            return True
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{type(error).__name__} in its forward pass{reason and f': {reason}'}") from error
        if features.shape != (2, width):
            raise ValueError(f"its features are {tuple(features.shape)} for two images, and not (2, {width})")
    if any(drop) and not watch.drew:
        key, rate = ("drop_rate", drop.rate) if drop.rate else ("drop_path_rate", drop.path_rate)
        raise ConfigError(f"model.{key}: {rate} changes nothing in timm:{name}, which has no such layer; 0 fits")
    return watch.drew


def _refuse_cut_patches(module: torch.nn.Module, image_size: Size) -> None:
    """Raises ValueError where timm would leave out, without a word, the pixels that fill no whole patch."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and any(side % part for side, part in zip(image_size, patch, strict=True)):
        raise ValueError(f"its patches have {patch[0]}x{patch[1]} pixels, of which an image has no whole number")


class _Watch(TorchDispatchMode):
    """Sees whether an operation draws random numbers."""

    drew = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.drew |= torch.Tag.nondeterministic_seeded in function.tags
        return function(*args, **(kwargs or {}))
