"""Makes the network that a configuration names, and checks that its backbone can take the images."""

import torch

from cil_func.config import Config, names
from cil_func.data import sources
from cil_func.errors import ConfigError, DataError
from cil_func.methods import checks
from cil_func.methods.base import Method
from cil_func.networks import backbones, recomputing
from cil_func.networks.backbones import Backbone
from cil_func.networks.network import Network
from cil_func.networks.timm_skeleton import Drop


def network_of(
    config: Config, method: Method, *, num_classes: int, num_phases: int, image_size: tuple[int, int]
) -> Network:
    """Returns the network of a run: the backbone of [model] with the method's head.

    num_classes, num_phases: of the whole run. image_size: (H, W) of the images.
    Raises ConfigError if the method needs feature maps, or a last stage, and the backbone has none, if run.recompute
    needs blocks and it has none, or for a backbone that isn't there.
    """
    backbone = backbone_for(config, method)
    return Network(
        name=key_of(config.model.backbone),
        backbone=recomputing.recompute(backbone) if config.run.recompute else backbone,
        num_classes=num_classes,
        num_phases=num_phases,
        image_size=image_size,
        head=method.head,
        taps=method.taps,
        final_relu=method.final_relu,
        drop=drop_of(config),
        grow=method.grow,
        beside=method.beside,
        begin=checks.begin(method),
    )


def backbone_for(config: Config, method: Method) -> Backbone:
    """Returns the backbone of [model]. Raises ConfigError as `network_of` does, for what needs no images."""
    backbone = backbone_of(config)
    if (method.taps or not method.final_relu) and not backbone.has_maps:
        raise ConfigError(
            f"model.backbone: {config.model.backbone} shows no feature maps, which {method.name} needs; a resnet of "
            "this package does"
        )
    if method.grow == "stage" and not backbone.last:
        raise ConfigError(
            f"model.backbone: {config.model.backbone} has no last stage that {method.name} could add to it in each "
            "phase; a resnet of this package has"
        )
    if config.run.recompute and not backbone.recomputes():
        raise ConfigError(
            f"run.recompute: true, and {config.model.backbone} has no blocks to compute again; a resnet of this "
            "package has, and so have timm's residual networks and vision transformers"
        )
    return backbone


def check_maps(config: Config, method: Method, image_size: tuple[int, int] | None) -> None:
    """Raises ConfigError if the method can't use the feature maps that the backbone of [model] shows.

    It runs a backbone of random weights on one black image. image_size: (H, W); None: not known yet, nothing is done.
    Saved models aren't checked: a prediction doesn't read the maps.
    """
    if not method.taps or image_size is None or method.fault_of_maps is Method.fault_of_maps:  # the default: no fault
        return
    backbone, shown = backbone_for(config, method), []

    def taps(maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        shown.extend(maps)
        return {}

    params, state = backbone.init(0, image_size=image_size)
    with torch.no_grad():
        backbone.apply(params, state, torch.zeros(1, 3, *image_size), train=False, taps=taps)
    if fault := method.fault_of_maps(len(shown)):
        raise ConfigError(f"model.backbone: {config.model.backbone} shows {len(shown)} feature maps; {fault}")


def backbone_of(config: Config) -> Backbone:
    """Returns the backbone of [model]: a built-in one, or what the user's own function returns.

    Raises ConfigError for options of a built-in one, which takes none, and if the user's function can't be found, fails
    or returns no Backbone.
    """
    name, options = config.model.backbone, config.model.options
    if not names.is_own(name):
        if options:
            raise ConfigError(f"model.options: {name} takes no options; remove the table")
        return backbones.backbone(name)
    found = names.bind(name, options, key="model.backbone", built_in={})()
    if not isinstance(found, Backbone):
        kind = type(found).__name__
        raise ConfigError(f"model.backbone: {name} returned {kind}; return a networks.backbones.Backbone")
    return found


def key_of(name: str) -> str:
    """Returns the key under which params and state have a backbone: its name, or that of the user's own function.

    name: the value of model.backbone, like "resnet32" or "nets.py:make", whose key is "make".
    """
    return name.rpartition(":")[2].replace(".", "_") if names.is_own(name) else name


def drop_of(config: Config) -> Drop:
    """Returns the rates of dropout and stochastic depth in [model]."""
    return Drop(config.model.drop_rate, config.model.drop_path_rate)


def known_size(config: Config) -> tuple[int, int] | None:
    """Returns (H, W) of the images if the configuration alone shows it; None if only the data do."""
    side = config.data.image_size or sources.OWN_SIZES.get(config.data.name)
    return None if side is None else (side, side)


def check_backbone(config: Config, image_size: tuple[int, int] | None, *, of_data: bool = False) -> bool:
    """Checks the backbone of [model]. Returns whether it draws random numbers while it is trained.

    image_size: (H, W) of the images; None: not known yet, then only the name is checked and False is returned. of_data:
    whether image_size comes from the data and not from the configuration, which decides the kind of error.
    Raises ConfigError for an unknown model or a rate that it doesn't have. Raises ConfigError, or DataError if
    `of_data`, for a size that it can't take; the message names one that it can.
    """
    name, drop = config.model.backbone, drop_of(config)
    net = backbone_of(config)
    if image_size is None:
        net.feature_dim()
        return False
    try:
        return net.draws(image_size, drop)
    except ValueError as error:
        height, width = image_size
        fits = next((side for side in (_near(height), 32, 64, 224, 256) if _takes(net, side)), None)
        raise (DataError if of_data else ConfigError)(
            f"data.image_size: {config.data.image_size}, and {name} can't take images of {height}x{width} pixels "
            f"({error}); " + (f"data.image_size = {fits} fits" if fits else "choose another model.backbone")
        ) from error


def _near(side: int) -> int:
    """Returns the multiple of 32 nearest to a side, at least 32: most networks take it."""
    return max(32, 32 * round(side / 32))


def _takes(net: Backbone, side: int) -> bool:
    try:
        net.draws((side, side))
    except ValueError:
        return False
    return True
