"""Data parallel training, as a thin wrapper: several processes share each batch, and only the time changes.

torch's DistributedDataParallel is not used: it starts its collectives in autograd's hooks, which torch.func does not
run (pytorch #102197), and its batch norm and samplers would change results. Here the first half of a step ends in one
flat vector of sums (`training.step`), `Processes.reduce` adds up the vectors of all processes, and each process
computes the second half from the same sum. All processes start from the same keys, so their trees are equal without
being sent. `batch_split` says which rows of a batch a process computes; it may compute none.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist

from cil_func import tree
from cil_func.errors import CilError, ConfigError, PeerError
from cil_func.parallel.activity import Activity
from cil_func.parallel.failure_watch import FailureWatch
from cil_func.parallel.hashing import digest
from cil_func.parallel.launch import Launch

_READ_SIGNALS_EVERY = {"cpu": 1, "cuda": 8}  # steps; reading them from a GPU waits for it


@dataclass
class Processes:
    """The processes of a run, seen from one of them. `join` makes it.

    By default there is a single process. Then nothing is sent, and each method returns at once what it was given.
    launch: which of the processes this is. device: where it computes. watch: None for a single process.
    collectives, numbers: how often `reduce` was called and how many numbers it has sent, for benchmarks.
    activity: what this process is doing, for the others to see.
    Methods that communicate are called by all processes, and raise PeerError if another process fails or is lost.
    """

    launch: Launch = field(default_factory=Launch)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    watch: FailureWatch | None = None
    collectives: int = 0
    numbers: int = 0

    def __post_init__(self):
        self._steps, self._signal = 0, 0
        self.activity = self.watch.activity if self.watch else Activity()
        self.set_device(self.device)

    def set_device(self, device: torch.device) -> None:
        """Sets the device that this process computes on. A CUDA device also becomes torch's current device."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.size > 1:
            self.activity.count_on_gpu(device)
        self.device = device
        self._own_signal, self._signal_sum = (torch.zeros((), device=device) for _ in range(2))

    @property
    def rank(self) -> int:
        """The number of this process, 0 to size - 1."""
        return self.launch.rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.launch.size

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that writes and prints."""
        return self.rank == 0

    def reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all processes' vectors, floats (V,), written into `vector`. A step calls it once.

        The last entry, which `training.step` leaves 0, is used for the signals of `signals_at_step`. It is a sum and
        not a mean, because gloo's AVG can be silently wrong (pytorch #162338); the caller divides.
        """
        if self.size == 1:
            return vector
        vector[-1] = self._own_signal
        self._collect(lambda: dist.all_reduce(vector))
        self._signal_sum.copy_(vector[-1])
        self.collectives, self.numbers = self.collectives + 1, self.numbers + len(vector)
        return vector

    def signals_at_step(self, signal: int) -> int:
        """Exchanges stop signals without a collective of its own. All processes call it before each step.

        signal: the number of the signal that this process has received, 0 for none. Returns the sum over all processes
        as of the last `reduce`, so it is the same in all. On a GPU the sum is read before every 8th step; before the
        others 0 is returned.
        """
        if self.size == 1:
            return signal
        if signal != self._signal:
            self._signal = signal
            self._own_signal.fill_(signal)
        self.activity.count_progress()
        self._steps += 1
        return int(self._signal_sum.item()) if self._steps % _READ_SIGNALS_EVERY[self.device.type] == 0 else 0

    def signals_now(self, signal: int) -> int:
        """Returns the sum of all processes' signals by a collective, between trainings. signal: 0 for none."""
        if self.size == 1:
            return signal
        found = torch.tensor(float(signal), device=self.device)
        self._collect(lambda: dist.all_reduce(found))
        return int(found.item())

    def split_rows(self, count: int, unit: int) -> list[slice]:
        """Splits `count` rows among the processes. Returns one slice of the rows for each process, by rank.

        Each slice has whole units of `unit` rows. Only the last unit may be smaller, and the last slices may be empty.
        """
        length = math.ceil(math.ceil(count / unit) / self.size) * unit
        return [slice(min(r * length, count), min((r + 1) * length, count)) for r in range(self.size)]

    def gather_rows(self, own: torch.Tensor, parts: list[slice]) -> torch.Tensor:
        """Returns the rows of all processes, (N, ...), bit by bit as they were computed.

        own: the rows of this process, (n, ...), on the device. parts: which rows each process has, from `split_rows`.
        """
        if self.size == 1:
            return own
        whole = own.new_empty(parts[-1].stop, *own.shape[1:])
        whole[parts[self.rank]] = own
        for rank, part in enumerate(parts):
            if part.start < part.stop:
                self._collect(partial(dist.broadcast, whole[part], src=rank))
        return whole

    def sum(self, part: tree.Tree) -> tree.Tree:
        """Returns the sum of a tree over all processes, a tree of the same shape, the same to the bit in each process.

        part: floating-point tensors of one dtype, on the device.
        """
        if self.size == 1:
            return part
        vector = tree.to_vector(part)
        self._collect(lambda: dist.all_reduce(vector))
        return tree.from_vector(vector, part)

    def broadcast(self, value: torch.Tensor) -> torch.Tensor:
        """Returns rank 0's tensor, on this process's device. The others give a tensor of the same shape and dtype."""
        if self.size == 1:
            return value
        value = value.to(self.device).contiguous()
        self._collect(lambda: dist.broadcast(value, src=0))
        return value

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Returns rank 0's bytes, of any length. What the other processes give is ignored."""
        if self.size == 1:
            return data
        length = int(self.broadcast(torch.tensor(len(data))).item())
        sent = torch.zeros(length, dtype=torch.uint8)
        if self.first and length:
            sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.broadcast(sent).cpu().numpy().tobytes()

    def check_equal(self, what: Mapping[str, object], *, when: str) -> None:
        """Raises CilError unless all processes have equal values.

        what: {name: tree}, see `hashing.digest`. when: for the message, such as "after phase 1", which names the first
        value that differs and its rank. Only hashes are sent.
        """
        if self.size == 1:
            return
        own = torch.stack([torch.frombuffer(bytearray(digest(part)), dtype=torch.uint8) for part in what.values()])
        ranks = [slice(rank, rank + 1) for rank in range(self.size)]
        every = self.gather_rows(own.to(self.device)[None], ranks).cpu()  # (W, parts, 32)
        for index, name in enumerate(what):
            odd = [rank for rank in range(self.size) if not torch.equal(every[rank, index], every[0, index])]
            if odd:
                raise CilError(
                    f"{name} of rank {odd[0]} differ from those of rank 0 {when}; the ranks run different versions or "
                    "on different processors, or a machine computes wrongly"
                )

    def refuse_shared_gpu(self) -> None:
        """Raises ConfigError if two processes compute on the same GPU, which NCCL can't do."""
        if not self.watch or self.device.type != "cuda":
            return
        gpus = self.watch.exchange("gpu", str(torch.cuda.get_device_properties(self.device).uuid))
        for rank, gpu in enumerate(gpus):
            if gpus.index(gpu) < rank:
                raise ConfigError(
                    f"ranks {gpus.index(gpu)} and {rank} have the same GPU ({gpu}); start one process a GPU, or let "
                    "the launcher show each process another one (CUDA_VISIBLE_DEVICES)"
                )

    def least(self, name: str, value: int) -> int:
        """Returns the smallest of the values that the processes give. name: of the value, used once."""
        return min(map(int, self.watch.exchange(name, str(value)))) if self.watch else value

    def wait_for_all(self, place: str) -> None:
        """Waits until all processes have called this with the same name. Each name is used once."""
        if self.watch:
            self.watch.wait_for_all(place)

    def delay_forced_exit(self) -> AbstractContextManager:
        """Returns a context manager. `FailureWatch` doesn't end this process while its block runs, up to a timeout."""
        return self.watch.exit_lock if self.watch else nullcontext()

    @contextmanager
    def first_of_machine_first(self, place: str) -> Iterator[None]:
        """Returns a context manager: the first process of each machine runs the block, then its other processes do.

        So a download, for example, is done once. place: a name, used once, for messages too.
        """
        if self.launch.local_rank and self.watch:
            self.watch.wait_for_announcement(self._key(place))
        try:
            with self.activity.long_work(place, at_most_seconds=math.inf):
                yield
        finally:
            if self.watch and not self.launch.local_rank:
                self.watch.announce(self._key(place))

    def once_per_machine(self, place: str, make: Callable[[], str]) -> str:
        """Calls make() in the first process of each machine. Returns its text in all processes of the machine.

        place: a name, used once, for messages too. The other processes wait.
        """
        if self.launch.local_rank and self.watch:
            return self.watch.wait_for_announcement(self._key(place))
        with self.activity.long_work(place, at_most_seconds=math.inf):
            made = make()
        if self.watch:
            self.watch.announce(self._key(place), made)
        return made

    def _key(self, place: str) -> str:
        """Returns a key that differs for each machine: it has the rank of the machine's first process."""
        return f"{place}/{self.rank - self.launch.local_rank}"

    def _collect(self, collective: Callable[[], object]) -> None:
        """Calls a collective. Raises PeerError if another process is lost meanwhile."""
        try:
            with self.activity.collective():
                collective()
        except RuntimeError as error:  # includes torch's DistError and what gloo raises
            raise PeerError(f"rank {self.rank} lost the others ({str(error).splitlines()[0]})") from error


ALONE = Processes()  # a run of a single process on the CPU
