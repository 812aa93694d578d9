"""The only place that calls torch.compile and captures CUDA graphs; how a train state is threaded through steps."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch

from cil_func import rng, tree
from cil_func.data.batch import AnyBatch
from cil_func.networks.outputs import Classes, Outputs
from cil_func.training.events import Emit
from cil_func.training.first_call import first_call
from cil_func.training.step_state import Health, Measures, TrainState, apart, nothing_measured

_GRAPHS = 64  # of one function, in one process; torch's own limit of 8 would end a run whose phases differ much in size
WARM_UP = 3  # calls before a capture: compilation, then what cuDNN and the allocator do the first times

Function = TypeVar("Function", bound=Callable)

_emit: ContextVar[Emit] = ContextVar("emit", default=lambda event: None)
_backends: Any = torch.backends  # torch puts objects in the place of these modules, of which mypy knows nothing
_FLOAT32 = {  # device -> what `results.json` calls an operation -> torch's setting
    "cuda": {"float32_convolution": _backends.cudnn.conv, "float32_matmul": torch.backends.cuda.matmul},
    "cpu": {"float32_convolution": _backends.mkldnn.conv, "float32_matmul": _backends.mkldnn.matmul},
}


def compiled(function: Function, *, full: Callable[..., int], name: str = "function") -> Function:
    """Returns `function`, compiled for the calls where full(*args) is not 0; the other calls run eagerly.

    full(*args) -> the number of rows of a call that is to be compiled, else 0. Calls with one number of rows, and
    arguments of one structure, share a graph. name: what is compiled, for the events of `reported`.
    An epoch's last, smaller batch is one of dozens: a second graph takes a minute to compile and saves next to nothing.
    """
    logging.getLogger("torch.utils.cpp_extension").addFilter(_says_more_than_no_gpu)
    # dynamic=False: a second shape must never turn the graph of the first into a slower, general one.
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    torch._dynamo.config.recompile_limit = max(_GRAPHS, torch._dynamo.config.recompile_limit)
    known = set()

    def call(*args):
        if not (rows := full(*args)):
            return function(*args)
        kind = rows, len(tree.leaves(args[0]))  # which are more in later phases of a backbone that grows
        if kind in known:
            return fast(*args)
        known.add(kind)
        started = time.perf_counter()
        _emit.get()({"event": "compiling", "what": name})
        result = first_call(fast, function, args)
        _emit.get()({"event": "compiled", "what": name, "seconds": time.perf_counter() - started})
        return result

    return cast(Function, call)


@contextmanager
def reported(emit: Emit) -> Iterator[None]:
    """Returns a context manager, inside which emit(event) gets the events of each compilation by `compiled`.

    Which are {"event": "compiling", "what": name} before it, and "compiled" with "what" and "seconds" after it.
    """
    token = _emit.set(emit)
    try:
        yield
    finally:
        _emit.reset(token)


def _says_more_than_no_gpu(record: logging.LogRecord) -> bool:
    """Returns False for torch's warning that a machine with CUDA's compiler has no GPU: a run on a CPU needs none."""
    return not str(record.msg).startswith("No CUDA runtime is found")


def around_compilations(begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Calls begin() before each compilation of this process from now on, and end() after it, also after a failure."""
    from torch._dynamo.callback import callback_handler  # late: it costs a second

    callback_handler.register_start_callback(lambda _: begin())
    callback_handler.register_end_callback(lambda _: end())


def name_kernels() -> None:
    """Makes kernels compiled from now on show themselves in a profile by name; on a GPU they do anyway."""
    _inductor().cpp.enable_kernel_profile = True


def same_bits() -> None:
    """Makes a GPU compute a run's numbers by the same algorithms whenever it is run or goes on.

    cuDNN has convolutions that add up in any order, and inductor would choose how to cut a reduction by timing it. What
    is compiled from now on takes neither.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    _inductor().deterministic = True


def _inductor():
    """Returns inductor's settings. Importing them takes seconds, which a run that compiles nothing doesn't need."""
    from torch._inductor import config

    return config


def exact_float32() -> None:
    """Makes float32 mean float32 everywhere: by default a GPU's convolutions take TF32, which has 10 bits of mantissa.

    torch has an old and a new interface for this, its own code reads both, and raises an error where they disagree.
    So both are set. The old one comes first, since it resets the new one to "none", which means a wider setting.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for operation in (*_FLOAT32["cuda"].values(), *_FLOAT32["cpu"].values(), torch.backends.cudnn.rnn):
        operation.fp32_precision = "ieee"


def float32_precision(device: str) -> dict[str, str]:
    """Returns {operation: how torch multiplies its float32 numbers} on "cpu" or "cuda"; "ieee" is float32 itself."""
    return {name: operation.fp32_precision for name, operation in _FLOAT32[device].items()}


class EagerSteps:
    """Threads a train state through a step: call it once for each batch with (taught, batch, rate[, seed]), then read.

    step: see `training.step.join`. classes: the phase's, on the device; who calls sets their `progress`, in place.
    taught: the teacher's outputs for the batch, or None. rate: the learning rate, 0-d, on the device.
    seed: the key of what the step draws from torch's global generator; None: it draws nothing.
    totals: the measures to go on from; they add up on the device until `measures` is called. None: 0.
    changing: called each time just before what `snapshot` reads changes; until then an exception changes nothing.
    """

    def __init__(
        self,
        step: Callable,
        train_state: TrainState,
        classes: Classes,
        totals: Measures | None = None,
        changing: Callable[[], None] = lambda: None,
    ):
        self._step, self._train_state, self.classes = step, train_state, classes
        self._totals, self._changing = totals or nothing_measured(train_state), changing

    def __call__(self, taught: Outputs | None, batch: AnyBatch, rate: torch.Tensor, seed: int | None = None) -> None:
        with rng.seeded(seed, rate.device):
            train_state, measures = self._step(self._train_state, taught, batch, self.classes, rate)
        totals, train_state = tree.map(torch.add, self._totals, measures), apart(train_state, self._train_state)
        self._changing()
        self._train_state, self._totals = train_state, totals

    def measures(self) -> Measures:
        """Returns the sums of the measures since the last call; they start anew."""
        self._changing()
        totals, self._totals = self._totals, nothing_measured(self._train_state)
        return totals

    def health(self) -> Health:
        """Returns, on the device, which step was the first whose gradients, statistics or loss were not finite."""
        return self._train_state.health

    def snapshot(self) -> tuple[TrainState, Measures]:
        """Returns the train state after the last step, and the sums so far."""
        return self._train_state, self._totals

    def close(self) -> None:
        """Does nothing: there is nothing to free."""


class CapturedSteps:
    """The same as `EagerSteps` by one CUDA graph, captured at the first call and replayed by all others.

    Owns static copies of everything that the step reads and writes. Only `health` returns some of them.
    A batch of another shape (a backbone that can't take padding has a smaller last one) runs uncaptured, and so does
    one of more than `most` images (its last one may have an image more than the others).
    """

    def __init__(
        self,
        step: Callable,
        train_state: TrainState,
        classes: Classes,
        totals: Measures | None = None,
        changing: Callable[[], None] = lambda: None,
        *,
        most: int = sys.maxsize,
    ):
        self._step, self._changing, self._most = step, changing, most
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Outputs | None, AnyBatch, torch.Tensor] | None = None
        self._train_state, self.classes = tree.map(torch.clone, (train_state, classes))
        self._totals = tree.map(torch.clone, totals or nothing_measured(train_state))

    def __call__(self, taught: Outputs | None, batch: AnyBatch, rate: torch.Tensor, seed: int | None = None) -> None:
        inputs, rows = (taught, batch, rate), len(batch.labels)
        captured = len(self._inputs[1].labels) if self._inputs else 0
        if captured < rows <= self._most:  # there is none, or it began with an epoch's last batch
            static = tree.map(torch.clone, inputs)
            self._inputs, captured = static, rows
            with rng.seeded(seed, rate.device):
                self._graph = self._capture(*static)
        self._changing()
        with rng.seeded(seed, rate.device):  # anew: a capture draws as well
            if not self._graph or rows != captured:
                self._write(self._step(self._train_state, taught, batch, self.classes, rate))
                return
            tree.write(inputs, into=self._inputs)
            self._graph.replay()

    def _capture(self, taught: Outputs | None, batch: AnyBatch, rate: torch.Tensor) -> torch.cuda.CUDAGraph:
        arguments = (self._train_state, taught, batch, self.classes, rate)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the step is pure: what it returns here is dropped, and nothing has changed
            for _ in range(WARM_UP):
                self._step(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that prepares batches may allocate meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._write(self._step(*arguments))
        return graph

    def _write(self, outputs: tuple[TrainState, Measures]) -> None:
        """Puts what a step returned into the static state, in place."""
        train_state, measures = outputs
        tree.write(train_state, into=self._train_state)
        torch._foreach_add_(tree.leaves(self._totals), tree.leaves(measures))

    def measures(self) -> Measures:
        """Returns the sums of the measures since the last call; they start anew."""
        self._changing()
        totals = tree.map(torch.clone, self._totals)
        torch._foreach_zero_(tree.leaves(self._totals))
        return totals

    def health(self) -> Health:
        """As `EagerSteps.health`. The tensors are the static ones, which the next step overwrites."""
        return self._train_state.health

    def snapshot(self) -> tuple[TrainState, Measures]:
        """Returns copies of the train state after the last step, and of the sums so far."""
        return tree.map(torch.clone, (self._train_state, self._totals))

    def close(self) -> None:
        """Drops the graph, which has to go before the process group whose collectives it holds. No call may follow."""
        self._graph = None
