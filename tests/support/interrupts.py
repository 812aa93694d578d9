"""Signals at chosen places of a run in this process."""

import os
import signal

import pytest

from cil_func import experiment


def in_evaluation(patch: pytest.MonkeyPatch, call: int = 2) -> None:
    """Sends SIGINT at the start of the evaluation of that number, 1 being phase 0's."""
    evaluate, calls = experiment.evaluate, []

    def interrupt(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments, **options)

    patch.setattr(experiment, "evaluate", interrupt)
