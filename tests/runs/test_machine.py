"""The line that a person gets if the machine lacks memory or a compiler."""

import errno
import json
import subprocess

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

import train
from cil_func.config import load
from cil_func.data import sources
from cil_func.errors import DataError, DiskError, MachineError
from cil_func.runs import machine, setup

EAGER = load("digits", ["run.compile=false", "run.precision=float32"])
COMPILED = load("digits", ["run.compile=true", "run.precision=bfloat16"])
GPU_FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.25 GiB is "
    "free. Process 7 has 70.00 GiB memory in use.\nSee documentation for Memory Management"
)


def raised(call) -> Exception:
    """Returns the exception that a call raises."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        call()
    return caught.value


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_a_process_that_decodes_images_and_is_killed_is_one_line_with_advice():
    """torch's own words, raised by its handler of SIGCHLD."""
    told = machine.explain(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), EAGER)
    assert isinstance(told, MachineError) and "try a smaller data.workers" in str(told)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.OutOfMemoryError(GPU_FULL), "GPU's memory is full (2.50 GiB more were needed, 1.25 GiB were"),
        (lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the GPU's memory is full;"),
        (lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU's memory is full;"),
        (lambda: raised(lambda: torch.empty(10**14)), "memory is full (400000000000000 bytes more were needed)"),
        (lambda: raised(lambda: np.empty(10**15)), "machine's memory is full (7.11 PiB more were needed)"),
        (MemoryError, "machine's memory is full;"),
        (lambda: OSError(errno.ENOMEM, "Cannot allocate memory"), "machine's memory is full;"),
        (lambda: caused(ValueError("a worker"), MemoryError()), "machine's memory is full;"),
        (lambda: BackendCompilerFailed(lambda: None, torch.OutOfMemoryError(GPU_FULL), None), "the GPU's memory"),
    ],
)
def test_too_little_memory_is_one_line_with_advice(make, says):
    told = machine.explain(make(), EAGER)
    assert isinstance(told, MachineError) and told.exit_status == 2 and says in str(told)
    assert f"optim.batch_size than {EAGER.optim.batch_size}" in str(told) and "run.precision=bfloat16" in str(told)
    assert ("optim.norm_batch" in str(told)) is ("GPU" in says)
    assert "optim.accumulate=2, run.recompute=true with run.compile=false" in str(told)
    assert "run.precision" not in str(machine.explain(make(), COMPILED))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: InductorError(InvalidCxxCompiler(), None), "No working C++ compiler found"),
        (
            lambda: InductorError(CppCompileError(["g++", "-O3"], "a.cpp:1:10: fatal error: Python.h: No such"), None),
            "a.cpp:1:10: fatal error: Python.h: No such",
        ),
        (lambda: InductorError(FileNotFoundError(errno.ENOENT, "No such file", "g++"), None), "'g++'"),
        (lambda: RuntimeError("Failed to find C compiler. Please specify via CC"), "Failed to find C compiler"),
        (lambda: subprocess.CalledProcessError(1, ["gcc", "stub.c"]), "gcc"),
    ],
)
def test_a_compiler_that_fails_is_one_line_with_advice(make, says):
    told = machine.explain(make(), COMPILED)
    assert isinstance(told, MachineError) and says in str(told) and "run.compile=false" in str(told)
    assert machine.explain(make(), EAGER) is None  # then it was something else


def test_a_full_disk_below_the_compiler_is_the_disks_failure():
    told = machine.explain(InductorError(OSError(errno.ENOSPC, "No space left", "/tmp/x"), None), COMPILED)
    assert isinstance(told, DiskError) and "/tmp/x" in str(told) and "TORCHINDUCTOR_CACHE_DIR" in str(told)


@pytest.mark.parametrize("error", [ZeroDivisionError("a"), DataError("no images"), KeyboardInterrupt(), KeyError("x")])
def test_anything_else_stays_as_it_is(error):
    assert machine.explain(error, COMPILED) is None


@pytest.fixture
def no_data(monkeypatch):
    """Lets the test fail if data are loaded."""
    monkeypatch.setattr(sources, "load", lambda *arguments, **settings: pytest.fail("the data were loaded"))


@pytest.mark.parametrize("flags", [[], ["--dry-run"], ["--profile", "3"]])
def test_a_missing_compiler_is_found_before_the_data_are_loaded(flags, no_data, tmp_path, capsys):
    words = ["--set", "run.compile=true", "--set", "run.device=cpu", "--out", str(tmp_path / "run"), *flags]
    with torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}):
        assert train.main(words) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and "C++ compiler" in printed.err and "run.compile=false" in printed.err
    assert (tmp_path / "run").exists() is (not flags)


@pytest.mark.parametrize(
    ("triton", "capability", "tools", "says"),
    [
        (False, (9, 0), ["gcc"], "package triton"), (True, (6, 1), ["gcc"], "compute capability 7.0"),
        (True, (9, 0), [], "C compiler"), (True, (9, 0), ["clang"], ""),
    ],
)  # fmt: skip
def test_what_a_gpu_needs_to_compile(triton, capability, tools, says, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("torch.utils._triton.has_triton_package", lambda: triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old one")
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in tools else None)
    if says:
        with pytest.raises(MachineError, match=says):
            machine.check_compiler("cuda")
    else:
        machine.check_compiler("cuda")


def test_a_run_without_memory_is_one_line_and_its_traceback_is_in_the_directory(tmp_path, capsys, monkeypatch):
    def fill_the_gpu(*arguments):
        raise torch.OutOfMemoryError(GPU_FULL)

    with monkeypatch.context() as patch:
        patch.setattr(setup, "build", fill_the_gpu)
        assert train.main(["--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 2) and line == f"train.py: {status['message']}"
    assert line.startswith("train.py: the GPU's memory is full")
    assert line.endswith(f"(details: {tmp_path}/traceback.txt)")
    assert "in fill_the_gpu\n" in (tmp_path / "traceback.txt").read_text()
    monkeypatch.setattr(setup, "build", lambda *arguments: 1 / 0)
    assert train.main(["--out", str(tmp_path)]) == 1
    assert not (tmp_path / "traceback.txt").exists()  # that of an attempt before
