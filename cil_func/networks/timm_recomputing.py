"""Activation checkpointing of timm's models, block by block: installed into the skeletons of calls that ask for it."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from cil_func.networks import recomputing

_ROWS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def has_blocks(module: nn.Module) -> bool:
    """Returns whether `install` finds blocks in a timm model."""
    return next(_blocks(module), None) is not None


def install(module: nn.Module, *, copied: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Changes a skeleton in place: the backward pass computes each of its blocks again. Returns the skeleton.

    copied(block) -> a copy, whatever transforms and modes are active.
    A block: the innermost entry of a sequence of modules that has several layers with parameters, such as a residual
    block, or a transformer's layer of attention and MLP.
    """
    for block in list(_blocks(module)):
        vars(block)["forward"] = _Recomputing(block, copied)
    return module


class _Recomputing:
    """Stands for the forward of a block. Runs copies of it: the backward pass comes when others may use the block."""

    def __init__(self, block: nn.Module, copied: Callable[[nn.Module], nn.Module]) -> None:
        self.block, self.copied = block, copied
        self.template, self.free = deepcopy(block), [deepcopy(block)]
        self.moving = [path for path, _ in block.named_buffers() if path in block.state_dict()]  # others never change

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        weights = dict(self.block.named_parameters())  # of a tensor with two names one, as functional_call wants
        buffers = dict(self.block.named_buffers(remove_duplicate=False))  # all norms share one "valid"
        # copies, since the backward pass needs them as they are now
        y, moved = recomputing.recomputed(self.run, weights, self._copied(buffers), inputs, more)
        for path, leaf in moved.items():
            buffers[path].copy_(leaf)  # as the block itself would have
        return y

    def run(self, weights: dict, buffers: dict, inputs: tuple, more: dict) -> tuple[Any, dict]:
        buffers = self._copied(buffers)
        try:
            copy = self.free.pop()  # pop and append of a list are atomic
        except IndexError:
            copy = self.copied(self.template)
        try:
            y = torch.func.functional_call(copy, (weights, buffers), inputs, more)
            return y, {path: buffers[path] for path in self.moving}
        finally:
            self.free.append(copy)

    def _copied(self, buffers: dict) -> dict:
        return {**buffers, **{path: buffers[path].clone() for path in self.moving}}


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inner = list(_blocks(child))
        if inner or not isinstance(module, _ROWS):
            yield from inner
        elif sum(1 for part in child.modules() if next(part.parameters(recurse=False), None) is not None) > 1:
            yield child
