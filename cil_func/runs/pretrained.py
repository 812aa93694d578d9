"""Pretrained weights and frozen parts of a run's network, as [model] and [optim] have them."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cil_func import optim, tree
from cil_func.config import Config
from cil_func.errors import ConfigError
from cil_func.methods.base import Method
from cil_func.networks import freezing, timm_pretrained, weights
from cil_func.networks.network import Network
from cil_func.networks.timm_pretrained import Preparation
from cil_func.training import factors as factors_of


def with_preparation(config: Config) -> Config:
    """Returns the configuration with data.image_size, mean and std of the pretrained model, where they are not set.

    Without model.weights, and for a run that extends another one, it comes back as it is. They are those of the run
    whose model.safetensors model.weights names, or else timm's for the model.
    """
    if not config.model.weights or config.run.extends:
        return config
    found, data = preparation_of(config), config.data
    if found is None:
        return config
    update: dict[str, object] = {} if data.image_size else {"image_size": found.image_size}
    if not data.mean:
        update |= {"mean": found.mean, "std": found.std}
    return config.model_copy(update={"data": data.model_copy(update=update)})


def preparation_of(config: Config) -> Preparation | None:
    """Returns how the images were prepared with which model.weights were trained; None if that is unknown."""
    file, name = Path(os.path.expanduser(config.model.weights)), config.model.backbone
    described = file.with_name("model.json")
    if file.name == "model.safetensors" and described.is_file():
        try:
            found = json.loads(described.read_text(encoding="utf-8"))["preprocessing"]
            height, width = found["image_size"]
            if height == width:
                return Preparation(height, tuple(found["mean"]), tuple(found["std"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no run of this package
    return timm_pretrained.preparation(name.removeprefix("timm:")) if name.startswith("timm:") else None


def warnings(config: Config) -> list[str]:
    """Returns what a person should know about the preparation of images for model.weights, one line each."""
    if not config.model.weights or config.run.extends:
        return []
    found, data, lines = preparation_of(config), config.data, []
    if found is None:
        return []
    if data.image_size != found.image_size:
        trained = f"model.weights were trained on {found.image_size} pixels a side"
        lines.append(f"data.image_size = {data.image_size}, and {trained}")
    if found.interpolation != "bicubic":
        lines.append(f"model.weights were trained on images resized by {found.interpolation}; here it is bicubic")
    return lines


def refuse_missing_file(config: Config) -> None:
    """Raises DataError if model.weights names a file that can't be opened; its content is looked at later."""
    if config.model.weights and not config.run.extends:
        weights.refuse_missing(Path(os.path.expanduser(config.model.weights)))


def with_weights(config: Config, network: Network) -> Network:
    """Returns the network whose backbone begins with model.weights; without them as it is.

    A run that extends another one begins with that run's model, and reads no file. Raises DataError for a file that
    can't be read or doesn't fit.
    """
    file = config.model.weights
    if not file or config.run.extends:
        return network
    read, net = weights.read(Path(os.path.expanduser(file))), network.backbone
    loaded = weights.pretrained(net, read, file=file, name=config.model.backbone)
    loaded(0, image_size=network.image_size)  # what doesn't fit is found now
    return replace(network, backbone=replace(net, init=loaded))


def with_frozen(config: Config, network: Network, method: Method) -> tuple[Network, Method]:
    """Returns (network, method) with the parts of the backbone frozen that model.freeze names.

    Raises ConfigError for a pattern that matches nothing, for a backbone that can't freeze a part, and for a method
    that mixes the weights of two backbones.
    """
    if not config.model.freeze:
        return network, method
    if method.beside:
        raise ConfigError(
            f"model.freeze: {method.name} mixes the weights of two trained backbones, so no part stays as it is; leave "
            "it out"
        )
    net = network.backbone
    params, state = net.init(0, image_size=network.image_size)
    parts = freezing.parts_of(params, state, config.model.freeze)
    start = f"backbone.{network.name.partition('.')[0]}"
    starts = tuple(f"{start}.{part}." if part else f"{start}." for part in parts)
    frozen = replace(network, backbone=freezing.freeze(net, parts))
    return frozen, method.freeze(lambda path: f"{path}.".startswith(starts))


def refuse_unknown_factors(config: Config, network: Network) -> None:
    """Raises ConfigError if optim.rate_factors of some table has a pattern that matches no parameter."""
    tables: dict[str, Any] = {"optim": config.optim, "optim.first_phase": config.optim.first_phase}
    tables |= {f"optim.{name}": stage for name, stage in config.optim.stages.items()}
    if not any(table.rate_factors for table in tables.values()):
        return
    params, _ = network.init(0, network.num_classes)
    paths = [freezing.without_name(path) for path in tree.to_paths(params)]
    for name, table in tables.items():
        patterns = [pattern for pattern, _ in table.rate_factors or ()]
        freezing.refuse_unmatched(patterns, paths, key=f"{name}.rate_factors")


def with_factors(optimiser: optim.Optimiser, factors: tuple[tuple[str, float], ...]) -> optim.Optimiser:
    """Returns the optimiser with a factor of the learning rate for some parameters.

    factors: (pattern, factor) pairs, of which the first that matches a parameter's path holds; others have 1.
    """
    return factors_of.scaled(optimiser, _factor_of(factors)) if factors else optimiser


def _factor_of(factors: tuple[tuple[str, float], ...]) -> Callable[[str], float]:
    def factor(path: str) -> float:
        short = freezing.without_name(path)
        return next((factor for pattern, factor in factors if freezing.matches(short, pattern)), 1.0)

    return factor
