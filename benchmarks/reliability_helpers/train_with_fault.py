"""Runs train.py with one fault, which the environment variable FAULT describes. For `benchmarks.reliability` and tests.

FAULT is JSON: {"what", "at", "rank", "once"}. The fault happens in the process of that rank (default 0), the `at`-th
time (counted from 1) that its place is passed. "once" may name a file that is made when the fault happens; if the file
exists already, the fault doesn't happen. "what" is one of

    "raise"                       at a border of the run (before each step, after each part of a phase): raises a bug
    "SIGKILL", "SIGTERM", ...     at a border: sends itself the signal
    "hang"                        at a border: lets the main thread wait for ever
    "SIGKILL in a save"           at a call that syncs or renames a file
    "nan in the loss"             in a step; also "inf", and "in the input", "in the gradient", "in the weight"
"""

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import train
from cil_func.runs import saver
from cil_func.training import step
from cil_func.training.preprocess import Preprocess


class Fault:
    """A fault, and how often its place was passed. text: its JSON."""

    def __init__(self, text: str):
        fault = json.loads(text)
        self.what, self.at, self.rank = fault["what"], fault["at"], fault.get("rank", 0)
        self.once, self.passed = fault.get("once", ""), 0

    def here(self) -> bool:
        """Counts that the place is passed. Returns whether the fault happens now."""
        self.passed += 1
        mine = self.passed == self.at and int(os.environ.get("RANK", "0")) == self.rank
        if not mine or (self.once and Path(self.once).exists()):
            return False
        if self.once:
            Path(self.once).touch()
        return True


def main() -> int:
    fault = Fault(os.environ["FAULT"])
    if found := re.fullmatch(r"(nan|inf) in the (input|loss|gradient|weight)", fault.what):
        in_a_step(fault, float(found[1]), found[2])
    elif fault.what == "SIGKILL in a save":
        in_a_save(fault)
    else:
        at_a_border(fault)
    return train.main()


def at_a_border(fault: Fault) -> None:
    """Lets the fault happen when the run may be saved."""
    call = saver.CheckpointSaver.at_border

    def faulty(self, make, boundary):
        if fault.here():
            if fault.what == "raise":
                raise ZeroDivisionError("a bug")
            if fault.what == "hang":
                threading.Event().wait()
            os.kill(os.getpid(), getattr(signal, fault.what))
        call(self, make, boundary)

    saver.CheckpointSaver.at_border = faulty


def in_a_save(fault: Fault) -> None:
    """Kills the process at a call that syncs or renames a file: before an odd one, after an even one."""
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def faulty(*arguments, original=original, **settings):
            kill = fault.here()
            if kill and fault.at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments, **settings)
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, faulty)


def in_a_step(fault: Fault, value: float, where: str) -> None:
    """Puts NaN or infinity into one training step. where: "input", "loss", "gradient" or "weight"."""
    make, call = step.make, Preprocess.__call__
    # Whether the input of this step is spoiled, and whether the weight is, from its step on. Lists, so that the
    # functions inside can change them.
    spoiled, weight = [False], [False]

    def preprocess(self, images, dtype):
        return call(self, images, dtype) + (value if spoiled[0] else 0)

    def with_weight(train_state):
        """Returns a new train state with the value in the weight, since the given one may just be being saved."""
        if not weight[0]:
            return train_state
        head = train_state.params["classifier"]
        rows = head["weight"].clone()
        rows[0, 0] = value
        return train_state._replace(params={**train_state.params, "classifier": {**head, "weight": rows}})

    def faulty(*arguments, **settings):
        parts = make(*arguments, **settings)

        def gradient(train_state, *others):
            here = fault.here()
            weight[0] = weight[0] or (here and where == "weight")
            spoiled[0] = here and where == "input"
            vector, moved = parts.gradient(with_weight(train_state), *others)
            spoiled[0] = False
            if here and where in ("loss", "gradient"):
                vector[{"loss": -4, "gradient": 7}[where]] = value
            return vector, moved

        def update(train_state, *others):
            return parts.update(with_weight(train_state), *others)

        return parts._replace(gradient=gradient, update=update)

    step.make, Preprocess.__call__ = faulty, preprocess


if __name__ == "__main__":
    sys.exit(main())
