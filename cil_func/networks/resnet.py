"""ResNets for small images: three stages of 16, 32, 64 channels (He et al. 2016, arXiv:1512.03385, section 4.2).

Depth 6n + 2, n blocks a stage, each of two 3x3 convolutions. The shortcut has no parameters (option A):
where the size halves it takes every second pixel, and the new channels are zeros. Global average
pooling at the end, so any size from 4x4 on works: digits are 8x8, CIFAR is 32x32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cil_func import rng
from cil_func.networks import layers, recomputing
from cil_func.networks.freezing import is_inside
from cil_func.networks.outputs import Taps

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
WIDTHS = (16, 32, 64)
LAST = "stage2"  # of which params and state may hold several, see `apply`


def init(key: int, depth: int) -> tuple[dict, dict]:
    """Returns (params, state) of a new ResNet, drawn from the int seed `key`, on the CPU in float32.

    state: batch norm's running statistics. Raises ValueError for a depth that is not in `DEPTHS`.
    """
    if depth not in DEPTHS:
        raise ValueError(f"resnet.init: depth {depth}; one of {', '.join(map(str, DEPTHS))}")
    norm_params, norm_state = layers.norm_init(WIDTHS[0])
    stem = layers.conv_init(rng.fold_in(key, "stem"), 3, WIDTHS[0], 3)
    params, state = {"stem": {"conv": stem, "norm": norm_params}}, {"stem": {"norm": norm_state}}
    in_channels = WIDTHS[0]
    for stage, channels in enumerate(WIDTHS):
        blocks = []
        for block in range((depth - 2) // 6):
            blocks.append(_init_block(rng.fold_in(key, stage, block), in_channels, channels))
            in_channels = channels
        params[f"stage{stage}"] = {f"block{i}": block_params for i, (block_params, _) in enumerate(blocks)}
        state[f"stage{stage}"] = {f"block{i}": block_state for i, (_, block_state) in enumerate(blocks)}
    return params, state


def feature_dim() -> int:
    """Returns the width D of the pooled features, 64."""
    return WIDTHS[-1]


def apply(
    params: dict,
    state: dict,
    images: torch.Tensor,
    *,
    train: bool,
    norm_batch: int = 0,
    valid: torch.Tensor | None = None,
    taps: Taps | None = None,
    final_relu: bool = True,
    frozen: tuple[str, ...] = (),
    recompute: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict]:
    """Images (B, 3, H, W) -> (features (B, 64) in the parameters' dtype, aux, new state).

    params, state: from `init`. train, norm_batch, valid: see `cil_func.model.apply`. If they have several last stages,
    {LAST: the newest, "earlier": {"0": ..., "1": ...}}, all see the same maps, and the features are those of the
    earlier ones, then the newest's, (B, 64 * their number). The earlier ones always run in eval mode.
    taps(maps) -> aux, tensors by name, that a loss needs. maps: the output of each block before its ReLU, (B, C, H, W)
    each, in order, without earlier last stages. None: no maps are kept, and aux is {}.
    final_relu: False pools the last block's output without its ReLU.
    frozen: the paths of frozen parts, such as "stem" or "stage0.block1.norm2"; batch norms in them use their running
    statistics, and their state stays as it is, in train mode too.
    recompute: whether the backward pass computes each block again, see `networks.recomputing`.
    """

    def mode_of(norm: str) -> layers.Mode:
        return {"train": train and not is_inside(norm, frozen), "norm_batch": norm_batch, "valid": valid}

    def pooled(y: torch.Tensor) -> torch.Tensor:
        return (F.relu(y) if final_relu else y).to(dtype).mean((2, 3))

    dtype = params["stem"]["norm"]["weight"].dtype
    stem, stem_state = params["stem"], state["stem"]
    maps: list[torch.Tensor] | None = [] if taps else None
    y, moved = layers.conv_norm(stem["conv"], stem["norm"], stem_state["norm"], images, **mode_of("stem.norm"))
    new_state, others = {"stem": {"norm": moved}}, []                              # y: (B, 16, H, W)
    for stage in range(len(WIDTHS)):
        name, stride = f"stage{stage}", 2 if stage else 1
        if name == LAST and "earlier" in params:
            for at in sorted(params["earlier"], key=int):
                parts = params["earlier"][at], state["earlier"][at]
                others.append(pooled(_stage(*parts, y, stride, lambda norm: {"train": False})[0]))
            new_state["earlier"] = state["earlier"]
        modes = lambda norm, name=name: mode_of(f"{name}.{norm}")  # noqa: E731
        y, new_state[name] = _stage(params[name], state[name], y, stride, modes, maps, recompute)
    features = torch.cat([*others, pooled(y)], dim=1) if others else pooled(y)
    return features, taps([each.to(dtype) for each in maps]) if taps and maps else {}, new_state


def _stage(
    params: dict,
    state: dict,
    y: torch.Tensor,
    stride: int,
    mode_of: Callable[[str], layers.Mode],
    maps: list[torch.Tensor] | None = None,
    recompute: bool = False,
) -> tuple[torch.Tensor, dict]:
    """Returns (output of the last block before its ReLU, new state) of a stage.

    y: (B, C, H, W), before the ReLU. stride: of the first block. mode_of(norm) -> the mode of a norm, such as
    "block0.norm1". maps: the blocks' outputs are appended to it; None: they aren't.
    """
    new_state = {}
    for i in range(len(params)):  # counted, not iterated: a tree read from a file may be sorted by name
        block = f"block{i}"
        modes = [mode_of(f"{block}.norm{number}") for number in (1, 2)]
        given = params[block], state[block], F.relu(y), 1 if i else stride, modes
        y, new_state[block] = recomputing.recomputed(_block, *given) if recompute else _block(*given)
        if maps is not None:
            maps.append(y)
    return y, new_state


def _init_block(key: int, in_channels: int, channels: int) -> tuple[dict, dict]:
    (norm1, state1), (norm2, state2) = layers.norm_init(channels), layers.norm_init(channels)
    params = {
        "conv1": layers.conv_init(rng.fold_in(key, 1), in_channels, channels, 3),
        "norm1": norm1,
        "conv2": layers.conv_init(rng.fold_in(key, 2), channels, channels, 3),
        "norm2": norm2,
    }
    return params, {"norm1": state1, "norm2": state2}


def _block(
    params: dict, state: dict, x: torch.Tensor, stride: int, modes: list[layers.Mode]
) -> tuple[torch.Tensor, dict]:
    """Returns (shortcut(x) + norm(conv(relu(norm(conv(x))))), new state) of a block, without the ReLU that follows.

    x: (B, C, H, W); the result is (B, C', H', W'). modes: train, norm_batch and valid of each norm, see
    `layers.conv_norm`.
    """
    y, norm1 = layers.conv_norm(params["conv1"], params["norm1"], state["norm1"], x, stride=stride, **modes[0])
    y, norm2 = layers.conv_norm(params["conv2"], params["norm2"], state["norm2"], F.relu(y), **modes[1])
    if stride != 1:
        x = x[:, :, ::stride, ::stride]
        x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))  # zeros for the new channels
    return x + y, {"norm1": norm1, "norm2": norm2}
