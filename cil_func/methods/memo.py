"""MEMO, memory-efficient expandable model (Zhou et al. 2023, arXiv:2205.13218): as DER, with a shared beginning.

Each phase adds a last stage, a copy of the newest one, to the backbone's other stages, which all phases share
(section 4.2). Earlier last stages and their batch norms are frozen. The shared stages go on being trained, through
frozen last stages too. Head, auxiliary head, losses and aligning are those of DER; no distillation.
"""

from dataclasses import replace

from cil_func.methods import der
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Weight
from cil_func.networks.last_stages import is_earlier


def make(options: Options, *, auxiliary: Weight = 1.0) -> Method:
    """Returns MEMO: DER on a network to which each phase adds a last stage.

    auxiliary: the weight of the auxiliary head's cross-entropy. options.align: whether rows are aligned at the end of a
    phase.
    """
    return replace(der.make(options, auxiliary=auxiliary), name="memo", grow="stage", frozen=is_earlier)
