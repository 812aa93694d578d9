"""iCaRL: replay with distillation, predicting by the nearest class mean (Rebuffi et al. 2017, arXiv:1611.07725).

The loss is softmax cross-entropy and distillation, as in the published comparisons (arXiv:2302.03648);
the original trains one sigmoid a class.
"""

from dataclasses import replace

from cil_func.methods import distillation, replay
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns iCaRL: replay with distillation, which predicts by the nearest of the exemplars' class means."""
    return replace(distillation.add(replay.make(options), options), name="icarl", predict="nme")
