"""`train.py --profile N`: traces N training steps, lists what took the time in them, and counts the kernels of a step.

The steps are those of phase 1, or of phase 0 if there is no other, after a warm-up; for a run that extends another one
those of its own first phase. The weights are random, not learned: no kernel's time depends on them. The teacher and the
augmentation work on several batches at a time, so they are in the trace only where such a group of batches begins.
"""

import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cil_func.config import Config
from cil_func.errors import ConfigError, DataError, DiskError
from cil_func.runs import planning, setup, trial_steps
from cil_func.training import runners
from cil_func.training.progress import SaveHook

_NO_LINE = "6"  # above the profiler's highest level
_WARM_UP = 3  # steps before the trace: compilation, capture, the caches
_ROWS = 15  # operations in the table
# What a CPU trace holds besides kernels and what calls them: memory, views, torch.compile's own bookkeeping
_NO_KERNELS = {
    f"aten::{name}" for name in (
        "alias", "as_strided", "as_strided_", "detach", "empty", "empty_like", "empty_strided", "expand", "lift_fresh",
        "numpy_T", "permute", "reshape", "resize_", "resolve_conj", "resolve_neg", "select", "slice", "t", "transpose",
        "unflatten", "unsqueeze", "view", "_unsafe_view", "_reshape_alias",
    )
}  # fmt: skip
_BOOKKEEPING = ("TorchDynamo", "AOTDispatcher", "Pregraph", "Torch-Compiled", "## Call", "ProfilerStep", "detach")


def run(config: Config, directory: Path, steps: int) -> str:
    """Traces training steps into directory/trace.json (for chrome://tracing or Perfetto). Returns a report as text.

    steps: how many are traced. The report has a table of the slowest operations and the number of kernels a step.
    directory: made if it is missing.
    Raises DataError if the phase has too few steps, ConfigError for a directory that can't be written, DiskError for a
    full disk.
    """
    runners.name_kernels()
    ready = setup.build(config)
    planning.check(ready)
    trace = _trace(ready, steps)
    path = directory / "trace.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # an earlier one would hide that this one can't be written
        trace.export_chrome_trace(str(path))
    except (OSError, RuntimeError) as error:  # torch's own for a file that it can't open
        raise ConfigError(f"--out {directory}: can't be written ({error})") from error
    if not path.exists():  # torch writes another file, which it renames, and raises nothing if the disk is full
        path.with_name(f"{path.name}.tmp").unlink(missing_ok=True)
        raise DiskError(f"{path}: the trace can't be written, as on a full disk; free some space")
    order = "self_cpu_time_total" if ready.experiment.device.type == "cpu" else "self_device_time_total"
    table = trace.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=70)
    return f"{table}\nkernels a step: {kernels(trace) / steps:.0f}\n{steps} steps, to be opened in a browser: {path}"


def kernels(trace: profile) -> int:
    """Returns the number of kernels in a trace: those of the GPU.

    In a trace without a GPU it is the number of operations that do their work themselves, without calling another one.
    """
    events = trace.events()
    on_gpu = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return on_gpu or sum(_is_kernel(event) for event in events)


def _is_kernel(event) -> bool:
    """Returns whether an operation of a CPU trace does its work itself, without calling another one that does it."""
    called = event.name not in _NO_KERNELS and not event.name.startswith(_BOOKKEEPING)
    return called and not any(_works(child) for child in event.cpu_children)


def _works(event) -> bool:
    """Returns whether an operation of a CPU trace, or one that it calls, is a kernel as `_is_kernel` says."""
    return _is_kernel(event) or any(_works(child) for child in event.cpu_children)


def _trace(ready: setup.Setup, steps: int) -> profile:
    """Trains until `steps` steps after the warm-up are done, and returns the trace of those steps.

    Raises DataError if the phase has too few steps.
    """
    made = ready.experiment
    cuda = made.device.type == "cuda"
    if not cuda:  # the profiler looks for a GPU anyway, and prints an ERROR and lines about itself
        os.environ.setdefault("KINETO_LOG_LEVEL", _NO_LINE)
    trace = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda, acc_events=True)
    done = 0

    def emit(event: dict) -> None:
        nonlocal done
        if event["event"] != "progress":
            return
        done += 1
        if done == _WARM_UP:
            trace.start()
        elif done == _WARM_UP + steps:
            if cuda:
                torch.cuda.synchronize()
            trace.stop()
            raise trial_steps.EnoughError

    phase = made.scenario.phases[min(max(1, ready.first_phase), len(made.scenario.phases) - 1)]
    if trial_steps.train(made, phase, emit=emit, hook=SaveHook()):
        return trace
    raise DataError(f"--profile {steps}: the phase has {done} steps, and {_WARM_UP} of them warm up")
