"""Joint training: all images of all classes seen, from a fresh initialisation in each phase. The upper bound."""

from dataclasses import replace

from cil_func.methods import finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Fine-tuning's loss on everything."""
    return replace(finetune.make(options), name="joint", rows="all", restart=True)
