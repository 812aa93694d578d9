"""Thin data parallel: several processes share each batch, and nothing else changes but the time.

Not torch's DistributedDataParallel: it hangs its collectives on autograd's hooks, which torch.func does not run
(pytorch #102197), and its batch norm and samplers would change what a recipe means. Here a step ends its first half
in one flat vector of sums (`training.step`), `Processes.reduce` adds the vectors of all processes up, and every process
takes the same second half. Trees are equal everywhere without being sent: all start from the same keys.

A batch belongs to all processes together. It is cut into groups of `norm_batch` images, which share batch norm's
statistics; a process holds whole groups (`parallel.batch_split`), and may hold none.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from cil_func import tree
from cil_func.errors import CilError, ConfigError, PeerError
from cil_func.parallel.activity import Activity
from cil_func.parallel.failure_watch import FailureWatch
from cil_func.parallel.launch import Launch

_HEAR_EVERY = {"cpu": 1, "cuda": 8}  # steps between two looks at the signal: on a GPU each waits for the device


@dataclass
class Processes:
    """The processes of a run, as one of them sees them; alone by default, and then each method is the identity."""

    launch: Launch = field(default_factory=Launch)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    watch: FailureWatch | None = None
    collectives: int = 0  # counted for benchmarks
    numbers: int = 0  # sent in `reduce`

    def __post_init__(self):
        self._steps, self._signal = 0, 0
        self.activity = self.watch.activity if self.watch else Activity()
        self.set_device(self.device)

    def set_device(self, device: torch.device) -> None:
        """Sets the device that this process computes on."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.size > 1:
            self.activity.count_on_gpu(device)
        self.device = device
        self._own_signal, self._heard = (torch.zeros((), device=device) for _ in range(2))

    @property
    def rank(self) -> int:
        return self.launch.rank

    @property
    def size(self) -> int:
        return self.launch.size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' vectors (V,), written into `vector`: one collective a step.

        SUM, for gloo's AVG can be silently wrong (pytorch #162338); whoever reads the vector divides. The last entry,
        which `training.step` leaves 0, carries the signals.
        """
        if self.size == 1:
            return vector
        vector[-1] = self._own_signal
        self._collect(lambda: dist.all_reduce(vector))
        self._heard.copy_(vector[-1])
        self.collectives, self.numbers = self.collectives + 1, self.numbers + len(vector)
        return vector

    def signals_at_step(self, signal: int) -> int:
        """At the border of a step: the signals of all processes added up; each says 0, or a number of its own once.

        All processes hear the same at the same step. On a GPU they look at every 8th step only.
        """
        if self.size == 1:
            return signal
        if signal != self._signal:
            self._signal = signal
            self._own_signal.fill_(signal)
        self.activity.count_progress()
        self._steps += 1
        return int(self._heard.item()) if self._steps % _HEAR_EVERY[self.device.type] == 0 else 0

    def signals_now(self, signal: int) -> int:
        """The same between trainings, at a place that all processes come to: at once, by a collective of its own."""
        if self.size == 1:
            return signal
        found = torch.tensor(float(signal), device=self.device)
        self._collect(lambda: dist.all_reduce(found))
        return int(found.item())

    def split_rows(self, count: int, unit: int) -> list[slice]:
        """`count` rows in whole units of `unit` rows, one slice a process, in order; the last ones may be empty."""
        length = math.ceil(math.ceil(count / unit) / self.size) * unit
        return [slice(min(r * length, count), min((r + 1) * length, count)) for r in range(self.size)]

    def gather_rows(self, own: torch.Tensor, parts: list[slice]) -> torch.Tensor:
        """All rows, (N, ...), from each process's own part of them, to the bit; no row comes twice."""
        if self.size == 1:
            return own
        whole = own.new_empty(parts[-1].stop, *own.shape[1:])
        whole[parts[self.rank]] = own
        for rank, part in enumerate(parts):
            if part.start < part.stop:
                self._collect(lambda rank=rank, part=part: dist.broadcast(whole[part], src=rank))
        return whole

    def sum(self, part: tree.Tree) -> tree.Tree:
        """The sum of a tree of floating-point tensors of one dtype over all processes, the same to the bit on each."""
        if self.size == 1:
            return part
        vector = tree.to_vector(part)
        self._collect(lambda: dist.all_reduce(vector))
        return tree.from_vector(vector, part)

    def broadcast(self, value: torch.Tensor) -> torch.Tensor:
        """Rank 0's `value`, which has the same shape everywhere, to the bit."""
        if self.size == 1:
            return value
        value = value.to(self.device).contiguous()
        self._collect(lambda: dist.broadcast(value, src=0))
        return value

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Rank 0's bytes; what the others give is dropped."""
        if self.size == 1:
            return data
        length = int(self.broadcast(torch.tensor(len(data))).item())
        held = torch.zeros(length, dtype=torch.uint8)
        if self.first and length:
            held = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.broadcast(held).cpu().numpy().tobytes()

    def check_equal(self, what: Mapping[str, object], *, when: str) -> None:
        """Compares a hash of each tree on all processes; raises CilError that names the first to differ, and whose."""
        if self.size == 1:
            return
        own = torch.stack([torch.frombuffer(bytearray(digest(part)), dtype=torch.uint8) for part in what.values()])
        ranks = [slice(rank, rank + 1) for rank in range(self.size)]
        every = self.gather_rows(own.to(self.device)[None], ranks).cpu()  # (W, parts, 32)
        for index, name in enumerate(what):
            odd = [rank for rank in range(self.size) if not torch.equal(every[rank, index], every[0, index])]
            if odd:
                raise CilError(
                    f"{name} of rank {odd[0]} differ from those of rank 0 {when}; a machine computes wrongly, or the "
                    "ranks run different versions"
                )

    def refuse_shared_gpu(self) -> None:
        """Raises ConfigError where two processes compute on one GPU, which NCCL can't do."""
        if self.size == 1 or self.device.type != "cuda":
            return
        gpus = self.watch.exchange("gpu", str(torch.cuda.get_device_properties(self.device).uuid))
        for rank, gpu in enumerate(gpus):
            if gpus.index(gpu) < rank:
                raise ConfigError(
                    f"ranks {gpus.index(gpu)} and {rank} have the same GPU ({gpu}); start one process a GPU, or let "
                    "the launcher show each process another one (CUDA_VISIBLE_DEVICES)"
                )

    def wait_for_all(self, place: str) -> None:
        """Waits until all processes have come here, however long one of them works before, unless one fails."""
        if self.watch:
            self.watch.wait_for_all(place)

    def delay_forced_exit(self) -> AbstractContextManager:
        """A block that the end of another process doesn't cut off, as it would the rest of this one."""
        return self.watch.exit_lock if self.watch else nullcontext()

    @contextmanager
    def first_of_machine_first(self, place: str) -> Iterator[None]:
        """The first process of each machine goes first, then the others: a download happens once."""
        if self.launch.local_rank:
            self._wait_for_first(place)
        try:
            with self.activity.long_work(place, at_most_seconds=math.inf):
                yield
        finally:
            if self.watch and not self.launch.local_rank:
                self.watch.announce(f"{place}/{self._machine()}")

    def once_per_machine(self, place: str, make: Callable[[], str]) -> str:
        """What make() returns in the first process of this machine, for all of its processes, which wait for it."""
        if self.launch.local_rank:
            return self.watch.wait_for_announcement(f"{place}/{self._machine()}")
        with self.activity.long_work(place, at_most_seconds=math.inf):
            made = make()
        if self.watch:
            self.watch.announce(f"{place}/{self._machine()}", made)
        return made

    def _wait_for_first(self, place: str) -> None:
        if self.watch:
            self.watch.wait_for_announcement(f"{place}/{self._machine()}")

    def _machine(self) -> int:
        """The rank of its first process."""
        return self.rank - self.launch.local_rank

    def _collect(self, collective: Callable[[], object]) -> None:
        try:
            with self.activity.collective():
                collective()
        except RuntimeError as error:  # torch's DistError is one, and so is what gloo raises
            raise PeerError(f"rank {self.rank} lost the others ({str(error).splitlines()[0]})") from error


ALONE = Processes()


def digest(part: object) -> bytes:
    """SHA-256 of the tensors of a tree, with their shapes and dtypes, or of anything else as text."""
    found = hashlib.sha256()
    for leaf in tree.leaves(part):
        if not isinstance(leaf, torch.Tensor):
            found.update(repr(leaf).encode())
            continue
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()
