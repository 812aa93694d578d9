"""A method of class-incremental learning is a record of functions (`base.Method`). The table of names."""

from cil_func.methods import finetune, icarl, joint, lwf, replay, wa
from cil_func.methods.base import Classes, Method, Options, Outputs, Targets

TABLE = {
    "wa": wa.make,
    "icarl": icarl.make,
    "replay": replay.make,
    "lwf": lwf.make,
    "finetune": finetune.make,
    "joint": joint.make,
}


def make(name: str, options: Options) -> Method:
    """The method called `name`; raises ValueError that lists the names for another one."""
    if name not in TABLE:
        raise ValueError(f'make: no method "{name}"; one of {", ".join(TABLE)}')
    return TABLE[name](options)


__all__ = ["TABLE", "Classes", "Method", "Options", "Outputs", "Targets", "make"]
