"""Explains in one line why a run ends: what this machine lacks, memory or a compiler, or whose code failed."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from cil_func.config import Config
from cil_func.config.messages import shown
from cil_func.errors import CilError, DiskError, MachineError
from cil_func.runs import own_code

_NO_MEMORY = re.compile(r"out of memory|allocate memory|Unable to allocate|not enough memory|STATUS_ALLOC_FAILED")
_ON_GPU = re.compile(r"\b(CUDA|CUBLAS|CUDNN|HIP|NCCL)\b|CUBLAS_|CUDNN_")
_AMOUNT = r"([\d.]+ ?\w+)"
_NEEDED = re.compile(rf"(?:[Tt]ried to allocate|Unable to allocate) {_AMOUNT}")
_FREE = re.compile(rf"of which {_AMOUNT} is free")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_COMPILERS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_WITHOUT = "run.compile=false runs without a compiler, and slower"


def as_one_line(error: BaseException, config: Config, directory: Path) -> BaseException:
    """Returns an error of one line if the disk, this machine or the user's own code is the cause, else `error` itself.

    error: what ended the run. config: of the run, for the advice. directory: the run directory, which the line names if
    the error doesn't name a file.
    For an error that `explain` or `own_code.explain` explains, the new one has the old one as its __cause__, so that
    its traceback can be stored or printed.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        name = error.filename or directory
        return DiskError(f"{name}: {error.strerror}; repair that, and the same command goes on")
    explained = explain(error, config) or own_code.explain(error, config)
    if explained is None:
        return error
    explained.__cause__ = error
    return explained


def explain(error: BaseException, config: Config) -> CilError | None:
    """Returns an error of one line if the cause is a lack of memory, a lost worker, or torch.compile and what it needs.

    A MachineError; a DiskError if the disk has no room for torch.compile's files.
    error: looked at together with all errors that it was raised from. config: of the run, for the advice.
    Returns None for any other error, and for a CilError, which is one line already.
    """
    if isinstance(error, CilError) or not isinstance(error, Exception):
        return None
    chain = list(_chain(error))
    if any(isinstance(link, RuntimeError) and str(link).startswith("DataLoader worker") for link in chain):
        return MachineError(
            "a process that decodes images was killed, mostly by the system for lack of memory; try a smaller "
            f"data.workers than {shown(config.data.workers)}, and the same command goes on"
        )
    lacking = next((link for link in chain if _is_memory(link)), None)
    if lacking is not None:
        return MachineError(_about_memory(lacking, config))
    if not (config.run.compile and any(_is_compiler(link) for link in chain)):
        return None
    for link in chain:
        if isinstance(link, OSError) and link.errno in _COMPILERS_DISK:
            advice = "make room there, or let TORCHINDUCTOR_CACHE_DIR name another folder"
            return DiskError(f"{link.filename}: {link.strerror}, for torch.compile's files; {advice}")
    return MachineError(f"torch.compile fails on this machine: {_reason(chain)}; {_WITHOUT}")


def check_compiler(device: str) -> None:
    """Raises MachineError if torch.compile lacks what it needs on this machine. device: "cpu" or "cuda"."""
    fault = _fault_on_cuda() if device == "cuda" else _fault_on_cpu()
    if fault:
        raise MachineError(f"run.compile: {fault}; {_WITHOUT}")


def _fault_on_cpu() -> str:
    """Returns what torch.compile lacks on a CPU and the way to get it; "" if nothing."""
    from torch._inductor import cpp_builder, exc  # imported late: few runs need it

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        named = f" (CXX={os.environ['CXX']})" if "CXX" in os.environ else ""
        return f"torch.compile needs a C++ compiler, and none works here{named}; install g++, or set CXX to one"
    return ""


def _fault_on_cuda() -> str:
    """Returns what torch.compile lacks on a GPU and the way to get it; "" if nothing."""
    from torch.utils._triton import has_triton_package  # imported late, as above

    if not has_triton_package():
        return "torch.compile needs Triton on a GPU, and it is not installed; install the package triton"
    if torch.cuda.get_device_capability() < (7, 0):
        return f"Triton needs a GPU of compute capability 7.0, and {torch.cuda.get_device_name()} has less"
    if "CC" not in os.environ and not (shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, and there is none; install gcc, or set CC to one"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and all errors that it was raised from."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        link = left.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        left += [getattr(link, "inner_exception", None), link.__cause__]
        left += [] if link.__suppress_context__ else [link.__context__]


def _is_memory(error: BaseException) -> bool:
    """Returns whether an error says that there is not enough memory, of the machine or of a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _about_memory(error: BaseException, config: Config) -> str:
    """Returns the message of a lack of memory: which one is full, the amounts that the error names, what to try."""
    text = str(error)
    on_gpu = isinstance(error, torch.OutOfMemoryError) or bool(_ON_GPU.search(text))
    numbers = [f"{found[1]} more were needed" for found in [_NEEDED.search(text)] if found]
    numbers += [f"{found[1]} were free" for found in [_FREE.search(text)] if found]
    detail = f" ({', '.join(numbers)})" if numbers else ""
    what = "the GPU's memory is full" if on_gpu else "the machine's memory is full"
    ways = [f"try a smaller optim.batch_size than {config.optim.batch_size}"]
    if 2 * config.optim.accumulate <= config.optim.batch_size // (config.optim.norm_batch or 2):
        ways.append(f"optim.accumulate={2 * config.optim.accumulate}")
    if not config.run.recompute:
        ways.append("run.recompute=true with run.compile=false")
    if config.run.precision in ("float32", "float64"):
        ways.append("run.precision=bfloat16")
    if on_gpu:
        ways.append("more GPUs, which share a batch in groups of optim.norm_batch images")
    else:
        ways.append("a smaller data.image_size, or fewer images")
    return f"{what}{detail}; {', '.join(ways)}"


def _is_compiler(error: BaseException) -> bool:
    """Returns whether torch.compile's backend raised the error, or a tool that the backend starts."""
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(("torch.", "triton."))}
    backend = names & {"BackendCompilerFailed", "CppCompileError", "InvalidCxxCompiler", "TritonMissing"}
    built = isinstance(error, subprocess.CalledProcessError) or "Failed to find C" in str(error)
    return bool(backend) or built


def _reason(chain: list[BaseException]) -> str:
    """Returns the most telling line of the errors in a chain, with the innermost error's type before it.

    chain: from the outermost error to the innermost. The line is the first with "error:", as a compiler writes it, else
    the start of the innermost message; at most 300 characters.
    """
    text = "\n".join(str(link) for link in chain)
    found = re.search(r"^.*\berror: .*$", text, re.MULTILINE)
    inner = next((link for link in reversed(chain) if str(link)), chain[-1])
    first = (found[0] if found else str(inner)).strip().partition("\n")[0]
    return f"{type(inner).__name__}: {first[:300]}"
