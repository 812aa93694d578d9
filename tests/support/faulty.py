"""train.py with a fault: at border number FAULT_AT, the process of rank FAULT_RANK does FAULT_WHAT to itself.

FAULT_WHAT: "raise" (a bug), or the name of a signal it sends to itself, like "SIGKILL", "SIGSTOP" or "SIGTERM".
FAULT_ONCE: a file; where it exists nothing happens, and it is made before the fault.
"""

import os
import signal
import sys
from pathlib import Path

import train
from cil_func import keeping


def main() -> int:
    at, rank, what = int(os.environ["FAULT_AT"]), os.environ["FAULT_RANK"], os.environ["FAULT_WHAT"]
    once = os.environ.get("FAULT_ONCE")
    call, borders = keeping.Keeper.__call__, [0]

    def faulty(self, make, boundary):
        borders[0] += 1
        if borders[0] == at and os.environ.get("RANK", "0") == rank and not (once and Path(once).exists()):
            if once:
                Path(once).touch()
            if what == "raise":
                raise ZeroDivisionError("a bug")
            os.kill(os.getpid(), getattr(signal, what))
        call(self, make, boundary)

    keeping.Keeper.__call__ = faulty
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
