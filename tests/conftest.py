"""What holds for all tests: one thread a process, long files first, and no compilation that isn't asked for."""

import os
import signal
import sys
from contextlib import contextmanager

import pytest

# Before torch is imported, which reads it once; and for the processes that tests start. Threads on cores that are
# shared wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# Under nohup it is ignored, here and in the processes that tests start, and runs leave it so.
if hasattr(signal, "SIGHUP"):  # Windows has none
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

LONG = (  # files of minutes, the longest first
    "test_processes.py", "tutorial/test_chapters.py", "training/test_runners.py", "test_runs.py", "test_resume.py",
    "test_saved_model.py", "test_checkpoints.py", "test_mistakes.py", "test_new_methods.py", "test_reliability.py",
    "test_gpu.py", "test_suite.py", "test_scaling.py", "test_timm_runs.py", "benchmarks/test_compile.py",
    "test_sweep.py", "test_stopping.py", "test_experiment.py", "test_profiling.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Moves the long files to the front, or one worker would be alone with the last of them."""

    def place(item) -> int:
        path = item.path.as_posix()
        return next((number for number, name in enumerate(LONG) if path.endswith(name)), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="module")
def shallow():
    """Networks of one block a stage, for all tests of a file: a third of the work, where depth says nothing."""
    import tiny  # imported late: it imports torch, which some files do without

    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def drawn():
    """No run draws a report at its end, since the figures take longer than a small run; but `with drawn():` it does."""
    from cil_func.runs import finishing, report_files

    class Undrawn:
        @staticmethod
        def write_report(directory, warn):
            return []

    @contextmanager
    def drawing():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finishing, "report_files", report_files)
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "report_files", Undrawn)
        yield drawing


@pytest.fixture(autouse=True)
def no_inductor(request, monkeypatch):
    """A test that compiles by inductor says so by its mark; it is one of very few, or the suite takes minutes more."""
    if "torch" not in sys.modules or request.node.get_closest_marker("inductor"):
        return

    def refuse(self, *arguments):
        pytest.fail('this test compiles by inductor: use the backend "aot_eager" or run.compile=false')

    monkeypatch.setattr(sys.modules["torch"]._TorchCompileInductorWrapper, "__call__", refuse)
