"""A method of class-incremental learning is a record of functions (`base.Method`). The table of names."""

from collections.abc import Mapping

from cil_func.methods import (
    agem,
    balanced,
    bic,
    coil,
    der,
    derpp,
    eeil,
    ewc,
    fetril,
    finetune,
    foster,
    gem,
    icarl,
    icarl_bce,
    il2m,
    joint,
    lucir,
    lwf,
    lwm,
    mas,
    memo,
    ncm,
    podnet,
    ranpac,
    replay,
    rwalk,
    si,
    simplecil,
    tagfex,
    wa,
)
from cil_func.methods.base import Classes, Method, Options, Outputs, Replay, Stage, Targets

TABLE = {
    "wa": wa.make,
    "icarl": icarl.make,
    "replay": replay.make,
    "lwf": lwf.make,
    "finetune": finetune.make,
    "joint": joint.make,
    "ewc": ewc.make,
    "mas": mas.make,
    "bic": bic.make,
    "podnet": podnet.make,
    "der": der.make,
    "icarl-bce": icarl_bce.make,
    "balanced": balanced.make,
    "eeil": eeil.make,
    "lucir": lucir.make,
    "ncm": ncm.make,
    "simplecil": simplecil.make,
    "ranpac": ranpac.make,
    "fetril": fetril.make,
    "si": si.make,
    "rwalk": rwalk.make,
    "il2m": il2m.make,
    "lwm": lwm.make,
    "derpp": derpp.make,
    "agem": agem.make,
    "gem": gem.make,
    "memo": memo.make,
    "foster": foster.make,
    "coil": coil.make,
    "tagfex": tagfex.make,
}


def make(name: str, options: Options, own: Mapping[str, object] | None = None) -> Method:
    """Returns the method called `name`, one of TABLE.

    options: the values of the [method] table. own: the keywords of [method.options], which the method's own `make`
    takes; None: none. Raises ValueError, which lists the names, for another one; TypeError for a keyword that it
    doesn't take.
    """
    if name not in TABLE:
        raise ValueError(f'make: no method "{name}"; one of {", ".join(TABLE)}')
    return TABLE[name](options, **(own or {}))


__all__ = ["TABLE", "Classes", "Method", "Options", "Outputs", "Replay", "Stage", "Targets", "make"]
