"""Joint training: all images of all classes seen, from a fresh initialisation in each phase. The upper bound."""

from dataclasses import replace

from cil_func.methods import finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns joint training: fine-tuning's loss on all images of all classes seen, each phase from a fresh start."""
    return replace(finetune.make(options), name="joint", rows="all", restart=True)
