"""Which parts of a configuration each built-in method uses, so that keys without effect can be told."""

from typing import NamedTuple


class Uses(NamedTuple):
    """What a method uses.

    memory: exemplars. distillation: the one that [method] describes, by temperature, kd_combination and kd_weight.
    temperature: method.temperature alone. align: method.align. smoothing: method.label_smoothing. stages: its stages,
    whose numbers [optim.STAGE] has.
    """

    memory: bool = False
    distillation: bool = False
    temperature: bool = False
    align: bool = False
    smoothing: bool = True
    stages: tuple[str, ...] = ()


TABLE = {
    "wa": Uses(memory=True, distillation=True, align=True),
    "icarl": Uses(memory=True, distillation=True),
    "replay": Uses(memory=True),
    "lwf": Uses(distillation=True),
    "finetune": Uses(),
    "joint": Uses(),
    "ewc": Uses(),
    "mas": Uses(),
    "bic": Uses(memory=True, distillation=True, stages=("bias",)),
    "podnet": Uses(memory=True, smoothing=False, stages=("balance",)),
    "der": Uses(memory=True, align=True),
    "icarl-bce": Uses(memory=True, smoothing=False),
    "balanced": Uses(memory=True, stages=("balance",)),
    "eeil": Uses(memory=True, temperature=True, stages=("balance",)),
    "lucir": Uses(memory=True, stages=("balance",)),
    "ncm": Uses(),
    "simplecil": Uses(),
    "ranpac": Uses(),
    "fetril": Uses(),
    "si": Uses(),
    "rwalk": Uses(),
    "il2m": Uses(memory=True),
    "lwm": Uses(distillation=True),
    "derpp": Uses(memory=True),
    "agem": Uses(memory=True),
    "gem": Uses(memory=True),
    "memo": Uses(memory=True, align=True),
    "foster": Uses(memory=True, temperature=True, stages=("compress",)),
    "coil": Uses(memory=True, distillation=True),
    "tagfex": Uses(memory=True, temperature=True, align=True),
}


def using(part: str) -> tuple[str, ...]:
    """Returns the methods that use something: the name of a field of `Uses`."""
    return tuple(name for name, uses in TABLE.items() if getattr(uses, part))
