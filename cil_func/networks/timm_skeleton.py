"""timm modules without weights, which `torch.func.functional_call` fills with the tensors of a call.

Such a module is called a skeleton. It is on the meta device, where tensors have no data. It is made in a thread of its
own, so that transforms (`torch.func.grad`, `vmap`), modes (`torch.device`, that of `torch.export`) and traces of
torch.compile, which are active in the caller's thread, don't affect it.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch

from cil_func.errors import ConfigError
from cil_func.networks import timm_biases, timm_recomputing

Size = tuple[int, int]  # (H, W)


class Drop(NamedTuple):
    """The rates at which a timm model in train mode drops something, 0 to below 1.

    rate: of dropout. path_rate: of stochastic depth, which leaves out a whole block for an image; it is smaller in the
    first blocks. If both are 0, all layers that draw random numbers are switched off: attention dropout, DropBlock and
    patch dropout too.
    """

    rate: float = 0.0
    path_rate: float = 0.0


OFF = Drop()


class Norms(NamedTuple):
    """How batch norm works in train mode: over groups of norm_batch images (0: all), maybe with padding among them."""

    norm_batch: int
    padded: bool


class Facts(NamedTuple):
    """Facts about a timm model.

    feature_dim: the width D of the pooled features. batch_norm: whether it has batch norm, by which images of a batch
    share statistics. groups: whether these can be groups of images, and a batch hold padding. drops: whether timm's own
    rates of dropping, which `create` sets to 0, are not all 0 already.
    """

    feature_dim: int
    batch_norm: bool
    groups: bool
    drops: bool


@contextmanager
def borrow(
    name: str,
    image_size: Size | None,
    *,
    train: bool,
    drop: Drop = OFF,
    frozen: tuple[str, ...] = (),
    norms: Norms | None = None,
    recompute: bool = False,
) -> Iterator[torch.nn.Module]:
    """Returns a context manager that yields a skeleton which no other call uses meanwhile.

    The skeleton is reused afterwards. functional_call writes into it, so two calls must not share one.
    name: of the timm model. image_size: (H, W) of the images if `takes_size(name)`, else None. train: whether the
    skeleton is in train mode. drop: its rates of dropping. frozen: paths of modules that are in eval mode all the same;
    those of single tensors are ignored. norms: how batch norm works in train mode, if that can be set; None: as
    timm's does. recompute: whether the backward pass computes each block again, see `timm_recomputing`.
    Raises ConfigError if timm has no such model or if it doesn't take a rate that isn't 0.
    """
    key = (name, image_size, train, drop, frozen, norms, recompute)
    try:
        module = _free[key].pop()  # pop and append of a list are atomic
    except IndexError:
        module = new(*key)
    try:
        yield module
    finally:
        _free[key].append(module)


def new(
    name: str,
    image_size: Size | None,
    train: bool,
    drop: Drop = OFF,
    frozen: tuple[str, ...] = (),
    norms: Norms | None = None,
    recompute: bool = False,
) -> torch.nn.Module:
    """Returns a skeleton that is never used by another call. The arguments are those of `borrow`."""
    return elsewhere(copy, name, image_size, train, drop, frozen, norms, recompute)


def takes_size(name: str) -> bool:
    """Returns whether the model is made for one size of the images, as its argument `img_size` says. name: timm's.

    Raises ConfigError for an unknown name.
    """
    if name not in _takes_size:
        _takes_size[name] = elsewhere(_try_size, name)
    return _takes_size[name]


def facts(name: str) -> Facts:
    """Returns what a run has to know about a model before training. Raises ConfigError for an unknown name."""
    from cil_func.networks import timm_norms  # late: it imports timm

    module = elsewhere(_prototype, name, None, OFF)
    return Facts(
        getattr(module, "head_hidden_size", None) or module.num_features,
        bool(timm_norms.batch_norms(module)),
        timm_norms.can_group(module),
        hasattr(module, "switched_off"),
    )


def prototype(name: str, image_size: Size | None = None) -> torch.nn.Module:
    """Returns the skeleton from which those for images of a size are copied; it must not be changed.

    image_size: (H, W); None: the model's own. Raises ConfigError for an unknown name.
    """
    return elsewhere(_prototype, name, image_size if image_size and takes_size(name) else None, OFF)


def create(name: str, image_size: Size | None = None, drop: Drop = OFF) -> torch.nn.Module:
    """Returns timm's model without its classifier, in train mode, on torch's default device, initialised by timm.

    name: timm's. image_size: (H, W); None: the model's own. drop: the rates of dropping; where all are 0, timm's own
    ones are set to 0 too. Raises ConfigError if timm has no such model, or if the model doesn't take a rate that isn't
    0.
    """
    import timm  # imported late: it takes seconds, and the CIFAR ResNets don't need it

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name.lower(), timm.list_models(), n=3, cutoff=0))
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
        except RuntimeError as error:
            if "pretrained tag" not in str(error):
                raise
            raise ConfigError(f'model.backbone: "timm:{name}": {str(error).rstrip(".")}; leave out the tag') from error
    return module if any(drop) else _switch_off(module)


def _side(image_size: Size) -> int | Size:
    """Returns an image size as timm takes it: one number for square images, since some models take only these."""
    return image_size[0] if image_size[0] == image_size[1] else image_size


def _switch_off(module: torch.nn.Module) -> torch.nn.Module:
    """Sets the rates of all layers that draw random numbers to 0, in place, and returns the module.

    If one of them was not 0, the module gets the attribute `switched_off`.
    """
    for part in list(module.modules()):
        layer = "drop" in type(part).__name__.lower()  # Dropout, DropPath, PatchDropout, DropBlock2d, ResidualDrop, ...
        for attribute, value in list(vars(part).items()):
            if isinstance(value, float) and ("drop" in attribute or (layer and attribute in ("p", "prob"))):
                setattr(part, attribute, 0.0)
                if value:
                    vars(module)["switched_off"] = True
    return module


_free: defaultdict[tuple, list[torch.nn.Module]] = defaultdict(list)
_prototypes: dict[tuple, torch.nn.Module] = {}
_takes_size: dict[str, bool] = {}


def elsewhere(function: Callable, *arguments: Any) -> Any:
    """Returns function(*arguments), computed by a new thread, see this module's docstring."""
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
    """Returns the skeleton from which others are copied, since a copy takes a tenth of the time."""
    key = (name, image_size, drop)
    if key not in _prototypes:
        with torch.device("meta"):
            _prototypes[key] = timm_biases.uncached(create(*key))
    return _prototypes[key]


def copy(
    name: str,
    image_size: Size | None,
    train: bool,
    drop: Drop,
    frozen: tuple[str, ...] = (),
    norms: Norms | None = None,
    recompute: bool = False,
) -> torch.nn.Module:
    """As `new`, but in the caller's thread."""
    module = deepcopy(_prototype(name, image_size, drop)).train(train)
    modules = dict(module.named_modules())
    for path in frozen:
        if path in modules:
            modules[path].eval()
    if norms:
        from cil_func.networks import timm_norms  # late: it imports timm

        timm_norms.install(module, norms.norm_batch, padded=norms.padded)
    return timm_recomputing.install(module, copied=partial(elsewhere, deepcopy)) if recompute else module
