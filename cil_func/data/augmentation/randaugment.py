"""timm's RandAugment: reads its policy string and draws operations by it. `operations` applies the draws.

Source: Cubuk et al. 2020 (arXiv:1909.13719) as in timm 1.0.31, `auto_augment.py`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cil_func import rng
from cil_func.data.augmentation.operations import OPERATIONS
from cil_func.errors import ConfigError

# timm ignores a section that it can't read, such as "rand-inc" or "rand-mstdinf"; here it is refused
_SECTION = re.compile(r"(m|n|inc|mmax)(\d+)|(mstd|p)(\d+(?:\.\d+)?)|(t)(weights|3a|3aw)", re.ASCII)
_SCALE = 10.0  # the magnitude at which an argument has reached the end of its usual range

_PLAIN = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color"),
    *("Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
_ENHANCED = ("Color", "Contrast", "Brightness", "Sharpness")
_INCREASING = tuple(
    f"{name}Increasing" if name in (*_ENHANCED, "Posterize", "Solarize") else name for name in _PLAIN
)
_MOVES = {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0}
_WEIGHTED = {
    **dict.fromkeys(_INCREASING, 0.05),
    **_MOVES,
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), 1.0),
    **dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "AutoContrast"), 0.25),
}
_THREE = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
_WEIGHTED_THREE = {
    **{name: 1.0 for name in _INCREASING if name not in ("SolarizeAdd", "TranslateXRel", "TranslateYRel")},
    **_MOVES,
    **dict.fromkeys(_THREE, 6.0),
}


Convert = Callable[[Tensor, Tensor], Tensor]  # (level = magnitude / 10, sign) -> argument, float64 each


def _signed(end: float) -> Convert:
    return lambda level, sign: level * end * sign


def _falling(scale: float, end: float) -> Convert:
    return lambda level, _: (level * scale).trunc().clamp(max=end)


def _between(low: float, high: float) -> Convert:
    return lambda level, _: (low + (high - low) * level).clamp(low, high)


def _away_from_one(level: Tensor, sign: Tensor) -> Tensor:
    return (1.0 + level * 0.9 * sign).clamp(min=0.1)


def _nothing(level: Tensor, _: Tensor) -> Tensor:
    return torch.zeros_like(level)


_MEANINGS: dict[str, tuple[str, Convert]] = {
    "AutoContrast": ("auto_contrast", _nothing),
    "Equalize": ("equalize", _nothing),
    "Invert": ("invert", _nothing),
    "Rotate": ("rotate", _signed(30.0)),
    "Posterize": ("posterize", _falling(4, math.inf)),
    "PosterizeIncreasing": ("posterize", lambda level, _: 4 - (level * 4).trunc()),
    "Solarize": ("solarize", _falling(256, 256)),
    "SolarizeIncreasing": ("solarize", lambda level, _: 256 - (level * 256).trunc().clamp(max=256)),
    "SolarizeAdd": ("solarize_add", _falling(110, 128)),
    **{name: (name.lower(), lambda level, _: level * 1.8 + 0.1) for name in _ENHANCED},
    **{f"{name}Increasing": (name.lower(), _away_from_one) for name in _ENHANCED},
    "ShearX": ("shear_x", _signed(0.3)),
    "ShearY": ("shear_y", _signed(0.3)),
    "TranslateXRel": ("translate_x", _signed(0.45)),
    "TranslateYRel": ("translate_y", _signed(0.45)),
    "Desaturate": ("color", lambda level, sign: 1.0 - _between(0.5, 1.0)(level, sign)),
    "GaussianBlur": ("blur", _between(0.1, 2.0)),
}


@dataclass(frozen=True)
class Policy:
    """What a policy string says.

    choices: timm's names of the operations to draw from.
    weights: one for each choice, and then no operation is drawn twice for an image; (): equal weights, with
    replacement. layers: how many operations each image gets. probability: with which each of them is applied.
    magnitude, deviation: mean and standard deviation of the normal distribution of magnitudes; with an infinite
    deviation it is uniform in 0..magnitude.
    limit: magnitudes are clamped to 0..limit.
    """

    choices: tuple[str, ...]
    weights: tuple[float, ...] = ()
    layers: int = 2
    probability: float = 0.5
    magnitude: int = 10
    deviation: float = 0.0
    limit: float = _SCALE


def parse(policy: str) -> Policy:
    """Returns the policy that a string of timm's describes, such as "rand-m9-mstd0.5-inc1".

    Raises ConfigError for a string that timm refuses, ignores in part or fails on later, and for a section given twice.
    """
    kind, *sections = policy.split("-")
    values: dict[str, str] = {}
    for section in sections:
        match = _SECTION.fullmatch(section)
        name, value = filter(None, match.groups()) if match else ("", "")
        if not match or name in values:
            raise _refused(policy, f"{section!r} comes twice" if match else f"can't read {section!r}")
        values[name] = value
    if kind != "rand":
        raise _refused(policy, f"can't read {kind!r}")
    choices = _choices(values.get("t", ""), increasing=int(values.get("inc", 0)) > 0)
    deviation = float(values.get("mstd", 0))
    parsed = Policy(
        choices=tuple(choices),
        weights=tuple(choices.values()) if isinstance(choices, dict) else (),
        layers=int(values.get("n", 2)),
        probability=float(values.get("p", 0.5)),
        magnitude=int(values.get("m", _SCALE)),
        deviation=math.inf if deviation > 100 else deviation,
        limit=float(values.get("mmax", 0)) or _SCALE,
    )
    if parsed.weights and parsed.layers > len(choices):
        raise _refused(policy, f"n is above {len(choices)}, the operations that t{values['t']} draws each once")
    return parsed


def draw(policy: Policy, key: int, count: int) -> dict[str, Tensor]:
    """Draws an operation and its argument for each of `count` images and each of L layers.

    key: an int, the seed of the draws, see `rng`. L is policy.layers.
    Returns {"operation": uint8 (count, L), positions in `operations.OPERATIONS`, 0 ("none") where none is applied;
    "argument": float64 (count, L), in the operation's own unit: degrees, parts of the image's side, bits, a threshold,
    a factor, ...}, both on the CPU.
    """

    def generator(purpose: str) -> torch.Generator:
        return rng.generator(rng.fold_in(key, purpose))

    def uniform(purpose: str) -> Tensor:
        return torch.rand(shape, generator=generator(purpose), dtype=torch.float64)

    shape = (count, policy.layers)
    chosen = _choose(policy, count, generator("choice"))
    applied = uniform("applied") < policy.probability
    sign = 1.0 - 2.0 * (uniform("sign") < 0.5).double()
    if math.isinf(policy.deviation):
        magnitude = uniform("magnitude") * policy.magnitude
    else:
        noise = torch.randn(shape, generator=generator("magnitude"), dtype=torch.float64)
        magnitude = policy.magnitude + noise * policy.deviation
    level = magnitude.clamp_(0, policy.limit) / _SCALE
    operation, argument = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.float64)
    for position, name in enumerate(policy.choices):
        here = (chosen == position) & applied
        what, convert = _MEANINGS[name]
        operation[here] = OPERATIONS.index(what)
        argument[here] = convert(level[here], sign[here])
    return {"operation": operation, "argument": argument}


def _choose(policy: Policy, count: int, generator: torch.Generator) -> Tensor:
    """Draws the operations, applied or not, as positions in policy.choices: int64 (count, L)."""
    if not policy.weights:
        return torch.randint(len(policy.choices), (count, policy.layers), generator=generator)
    if not policy.layers:
        return torch.empty(count, 0, dtype=torch.int64)
    weights = torch.tensor(policy.weights, dtype=torch.float64).expand(count, -1)
    return torch.multinomial(weights, policy.layers, replacement=False, generator=generator)


def _choices(name: str, *, increasing: bool) -> tuple[str, ...] | dict[str, float]:
    named: dict[str, tuple[str, ...] | dict[str, float]] = {"weights": _WEIGHTED, "3a": _THREE, "3aw": _WEIGHTED_THREE}
    return named.get(name, _INCREASING if increasing else _PLAIN)


def _refused(policy: str, why: str) -> ConfigError:
    return ConfigError(
        f"augment.auto_augment = {policy!r}: {why}; give a RandAugment string of timm's, like "
        '"rand-m9-mstd0.5-inc1", or "" for none'
    )
