"""The only place that calls torch.compile and captures CUDA graphs; how a train state is threaded through steps."""

from collections.abc import Callable

import torch
import torch._inductor.config

from cil_func import tree
from cil_func.data.resident import Batch
from cil_func.engine.step import Health, Measures, TrainState, nothing_measured
from cil_func.methods import Classes, Outputs

WARM_UP = 3  # calls before a capture: compilation, then what cuDNN and the allocator do the first times


def compiled(function: Callable, *, full: Callable[..., bool]) -> Callable:
    """Compiles `function` for the calls where `full(*args)` is true; the others run eagerly.

    Every call with one structure and one set of shapes shares a graph. An epoch's last, smaller batch is
    one of dozens: a second graph would take a minute to compile and save a fraction of a second.
    """
    # dynamic=False: a second shape must never turn the graph of the first into a slower, general one.
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    return lambda *args: fast(*args) if full(*args) else function(*args)


def name_kernels() -> None:
    """Makes kernels compiled from now on show themselves in a profile by name; on a GPU they do anyway."""
    torch._inductor.config.cpp.enable_kernel_profile = True


def same_bits() -> None:
    """Makes a GPU compute a run's numbers by the same algorithms whenever it is run or goes on.

    cuDNN has convolutions that add up in any order, and inductor would choose how to cut a reduction by timing it. What
    is compiled from now on takes neither.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch._inductor.config.deterministic = True


class Threaded:
    """Threads a train state through a step: call it with (taught, batch, rate), then read.

    totals: the measures to go on from; they add up on the device until `measures` is called.
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
        self._step, self._train_state, self._classes = step, train_state, classes
        self._totals, self._changing = totals or nothing_measured(train_state), changing

    def __call__(self, taught: Outputs | None, batch: Batch, rate: torch.Tensor) -> None:
        train_state, measures = self._step(self._train_state, taught, batch, self._classes, rate)
        totals = tree.map(torch.add, self._totals, measures)
        self._changing()
        self._train_state, self._totals = train_state, totals

    def measures(self) -> Measures:
        """The sums since the last call; they start anew."""
        self._changing()
        totals, self._totals = self._totals, nothing_measured(self._train_state)
        return totals

    def health(self) -> Health | None:
        """Whether every step so far was finite."""
        return self._train_state.health

    def snapshot(self) -> tuple[TrainState, Measures]:
        """The train state after the last step, and the sums so far."""
        return self._train_state, self._totals

    def close(self) -> None:
        """Nothing to give back."""


class Captured:
    """The same as `Threaded` by one CUDA graph, captured at the first call and replayed by all others.

    Owns static copies of everything that the step reads and writes; nothing outside is an alias of them.
    A batch of another shape (a backbone that can't take padding has a smaller last one) runs uncaptured.
    """

    def __init__(
        self,
        step: Callable,
        train_state: TrainState,
        classes: Classes,
        totals: Measures | None = None,
        changing: Callable[[], None] = lambda: None,
    ):
        self._step, self._graph, self._changing = step, None, changing
        self._train_state, self._classes = tree.map(torch.clone, (train_state, classes))
        self._totals = tree.map(torch.clone, totals or nothing_measured(train_state))

    def __call__(self, taught: Outputs | None, batch: Batch, rate: torch.Tensor) -> None:
        inputs = (taught, batch, rate)
        if self._graph is None or len(batch.labels) > len(self._inputs[1].labels):  # the first one was an epoch's last
            self._inputs = tree.map(torch.clone, inputs)
            self._capture()
        self._changing()
        if batch.labels.shape != self._inputs[1].labels.shape:
            self._write(self._step(self._train_state, taught, batch, self._classes, rate))
            return
        tree.write(inputs, into=self._inputs)
        self._graph.replay()

    def _capture(self) -> None:
        taught, batch, rate = self._inputs
        arguments = (self._train_state, taught, batch, self._classes, rate)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the step is pure: what it returns here is dropped, and nothing has changed
            for _ in range(WARM_UP):
                self._step(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that prepares batches may allocate meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._write(self._step(*arguments))

    def _write(self, outputs: tuple[TrainState, Measures]) -> None:
        """Puts what a step returned into the static state, in place."""
        train_state, measures = outputs
        tree.write(train_state, into=self._train_state)
        torch._foreach_add_(tree.leaves(self._totals), tree.leaves(measures))

    def measures(self) -> Measures:
        """The sums since the last call; they start anew."""
        self._changing()
        totals = tree.map(torch.clone, self._totals)
        torch._foreach_zero_(tree.leaves(self._totals))
        return totals

    def health(self) -> Health | None:
        """Whether every step so far was finite."""
        return self._train_state.health

    def snapshot(self) -> tuple[TrainState, Measures]:
        """Copies of the train state after the last step, and of the sums so far."""
        return tree.map(torch.clone, (self._train_state, self._totals))

    def close(self) -> None:
        """Gives the graph back, which has to go before the process group whose collectives it holds."""
        self._graph = None
