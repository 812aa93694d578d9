"""Replay: fine-tuning on the new images and the exemplars of the old classes."""

from dataclasses import replace

from cil_func.methods import finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns replay: fine-tuning on the new images and on exemplars."""
    return replace(finetune.make(options), name="replay", uses_memory=True)
