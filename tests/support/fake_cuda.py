"""Simulates CUDA graphs on the CPU, as far as capture and replay are concerned, for tests without a GPU.

A capture records every operation with its tensors, and writes nothing into tensors that were there before. A replay
runs the operations again on the same tensors, into the same results. A GPU does the same: memory has fixed addresses,
and what was a Python number at the capture doesn't change.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """Replaces torch.cuda.CUDAGraph. replays: how often it was replayed."""

    def __init__(self):
        self.operations, self.replays = [], 0

    def replay(self) -> None:
        assert self.operations, "replayed before it was captured"
        self.replays += 1
        for function, args, kwargs, results in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: list):
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a capture must not wait for the device")
        if function._schema.is_mutable:  # only written at a replay
            results = args[0] if function._schema.returns else None
        else:
            results = function(*args, **kwargs)
        self.operations.append((function, args, kwargs, results))
        return results


@contextmanager
def _capture(graph: Graph, capture_error_mode: str = "global"):
    with _Recorder(graph.operations):
        yield


class _Stream:
    def wait_stream(self, other: "_Stream") -> None:
        assert isinstance(other, _Stream)


def install(monkeypatch) -> None:
    """Replaces the functions of torch.cuda for one test."""
    for name, fake in {
        "CUDAGraph": Graph,
        "graph": _capture,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
