"""What holds for all tests: one thread a process, and no compilation that isn't asked for."""

import os
import sys

import pytest

# Before torch is imported, which reads it once; and for the processes that tests start. Threads on cores that are
# shared wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def no_inductor(request, monkeypatch):
    """A test that compiles by inductor says so by its mark; it is one of very few, or the suite takes minutes more."""
    if "torch" not in sys.modules or request.node.get_closest_marker("inductor"):
        return

    def refuse(self, *arguments):
        pytest.fail('this test compiles by inductor: use the backend "aot_eager" or run.compile=false')

    monkeypatch.setattr(sys.modules["torch"]._TorchCompileInductorWrapper, "__call__", refuse)
