"""Frozen parts of a backbone: which ones some patterns name, and a backbone that runs them as in eval mode.

A frozen part has no gradient and no optimiser's state, and its batch norms use their running statistics, which stay as
they are. If the whole backbone is frozen, images of a batch don't influence each other.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from cil_func import tree
from cil_func.errors import ConfigError

if TYPE_CHECKING:
    from cil_func.networks.backbones import Backbone

WHOLE = ("",)  # the frozen parts of a backbone that is frozen altogether
_SHOWN = 6


def without_name(path: str) -> str:
    """Returns a path without the backbone's name: "backbone.layer1.conv" for "backbone.timm:resnet18.layer1.conv"."""
    first, _, rest = path.partition(".")
    return f"{first}.{rest.partition('.')[2]}" if first == "backbone" else path


def matches(path: str, pattern: str) -> bool:
    """Returns whether a shell's pattern, such as "backbone.layer[12]" or "*.bias", matches a path or a beginning of it.

    path: such as "backbone.layer1.conv.weight", without the backbone's name.
    """
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def is_inside(path: str, parts: tuple[str, ...]) -> bool:
    """Returns whether a path is one of `parts` or lies below one. Works in code that torch.compile traces."""
    return parts == WHOLE or f"{path}.".startswith(tuple(f"{part}." for part in parts))


def refuse_unmatched(patterns: Iterable[str], paths: Iterable[str], *, key: str) -> None:
    """Raises ConfigError for a pattern that matches none of the paths. key: that of the configuration, for messages."""
    paths = list(paths)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            beginnings = list(dict.fromkeys(".".join(path.split(".")[:2]) for path in paths))
            more = ", ..." if len(beginnings) > _SHOWN else ""
            raise ConfigError(
                f'{key}: "{pattern}" is no part of this model; there are {", ".join(beginnings[:_SHOWN])}{more}'
            )


def parts_of(params: tree.Tree, state: tree.Tree, patterns: Iterable[str]) -> tuple[str, ...]:
    """Returns the paths of the largest parts of a backbone all of whose tensors the patterns match; WHOLE: all of it.

    params, state: of the backbone alone. patterns: of paths that begin with "backbone", see `matches`.
    Raises ConfigError for a pattern that matches no parameter.
    """
    patterns, paths = list(patterns), list(tree.to_paths(params))
    refuse_unmatched(patterns, [f"backbone.{path}" for path in paths], key="model.freeze")
    paths += [path for path in tree.to_paths(state) if path not in paths]
    kept = [path for path in paths if not any(matches(f"backbone.{path}", pattern) for pattern in patterns)]
    with_kept = {"", *(start for path in kept for start in _starts(path))} if kept else set()
    found = (next(start for start in _starts(path) if start not in with_kept) for path in paths if path not in kept)
    return tuple(dict.fromkeys(found))


def freeze(net: "Backbone", parts: tuple[str, ...]) -> "Backbone":
    """Returns the backbone with these parts frozen, see `parts_of`.

    Raises ConfigError if `net` can't freeze parts and `parts` isn't all of it.
    """
    if parts != WHOLE:
        if parts and not net.freezes:
            raise ConfigError('model.freeze: this backbone can be frozen as a whole alone; ["backbone"] fits')
        return replace(net, apply=_bound(net.apply, parts)) if parts else net

    def apply(params, state, images, *, train, norm_batch=0, valid=None, drop=None, **more: Any):
        return net.apply(params, state, images, train=False, **more)

    return replace(net, apply=apply, pads=lambda: True, shares=lambda: False)


def _bound(apply: Callable[..., Any], parts: tuple[str, ...]) -> Callable[..., Any]:
    def call(params, state, images, *, train, **more: Any):
        return apply(params, state, images, train=train, **more, **({"frozen": parts} if train else {}))

    return call


def _starts(path: str) -> list[str]:
    """Returns "" and all beginnings of a path, itself included: ["", "a", "a.b"] for "a.b"."""
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(len(keys) + 1)]
