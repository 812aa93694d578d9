"""Thin data parallel: several processes share each batch, and nothing else changes but the time.

Not torch's DistributedDataParallel: it hangs its collectives on autograd's hooks, which torch.func does not run
(pytorch #102197), and its batch norm and samplers would change what a recipe means. Here a step ends its first half
in one flat vector of sums (`engine.step`), `World.reduce` adds the vectors of all processes up, and every process
takes the same second half. Trees are equal everywhere without being sent: all start from the same keys.

A batch belongs to all processes together. It is cut into groups of `norm_batch` images, which share batch norm's
statistics; a process holds whole groups (`engine.shares`), and may hold none.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from cil_func import tree
from cil_func.engine.places import Places
from cil_func.engine.watch import Watch
from cil_func.errors import CilError, ConfigError, PeerError

# Of torch's own guards. The watch names the process that hangs, and lets one work long that has announced it; torch's
# guards would end the run without a word (NCCL) or blame the connection (gloo), so they have to come after it.
_FOR_EVER = timedelta(days=7)
_HEAR_EVERY = {"cpu": 1, "cuda": 8}  # steps between two looks at the signal: on a GPU each waits for the device


@dataclass(frozen=True)
class Launch:
    """What a launcher (torchrun) says of this process; by default there is one process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restart: int = 0  # how often the launcher has started all processes anew


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Reads torchrun's variables. Raises ConfigError for those of a broken launcher."""
    names = {
        "rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE",
        "restart": "TORCHELASTIC_RESTART_COUNT",
    }  # fmt: skip
    if "WORLD_SIZE" not in environment:
        return Launch()
    try:
        launch = Launch(**{key: int(environment[name]) for key, name in names.items() if name in environment})
    except ValueError:
        given = ", ".join(f"{name}={environment.get(name)}" for name in names.values())
        raise ConfigError(f"the launcher's variables are no numbers: {given}; start with torchrun") from None
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if launch.size > 1 and missing:
        raise ConfigError(f"WORLD_SIZE={launch.size}, and {missing[0]} is not set; start with torchrun")
    if not (0 <= launch.rank < launch.size and 0 <= launch.local_rank < launch.local_size):
        raise ConfigError(f"rank {launch.rank} of {launch.size}, local rank {launch.local_rank}; start with torchrun")
    return launch


@dataclass
class World:
    """The processes of a run, as one of them sees them; alone by default, and then each method is the identity."""

    launch: Launch = Launch()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    watch: Watch | None = None
    collectives: int = 0  # counted for benchmarks
    numbers: int = 0  # sent in `reduce`

    def __post_init__(self):
        self._steps, self._signal = 0, 0
        self.places = self.watch.places if self.watch else Places()
        self.use(self.device)

    def use(self, device: torch.device) -> None:
        """Sets the device that this process computes on."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.size > 1:
            self.places.use(device)
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
        which `engine.step` leaves 0, carries the signals.
        """
        if self.size == 1:
            return vector
        vector[-1] = self._own_signal
        self._collect(lambda: dist.all_reduce(vector))
        self._heard.copy_(vector[-1])
        self.collectives, self.numbers = self.collectives + 1, self.numbers + len(vector)
        return vector

    def heard(self, signal: int) -> int:
        """At the border of a step: the signals of all processes added up; each says 0, or a number of its own once.

        All processes hear the same at the same step. On a GPU they look at every 8th step only.
        """
        if self.size == 1:
            return signal
        if signal != self._signal:
            self._signal = signal
            self._own_signal.fill_(signal)
        self.places.tick()
        self._steps += 1
        return int(self._heard.item()) if self._steps % _HEAR_EVERY[self.device.type] == 0 else 0

    def consult(self, signal: int) -> int:
        """The same between trainings, at a place that all processes come to: at once, by a collective of its own."""
        if self.size == 1:
            return signal
        found = torch.tensor(float(signal), device=self.device)
        self._collect(lambda: dist.all_reduce(found))
        return int(found.item())

    def parts(self, count: int, unit: int) -> list[slice]:
        """`count` rows in whole units of `unit` rows, one slice a process, in order; the last ones may be empty."""
        length = math.ceil(math.ceil(count / unit) / self.size) * unit
        return [slice(min(r * length, count), min((r + 1) * length, count)) for r in range(self.size)]

    def gather(self, own: torch.Tensor, parts: list[slice]) -> torch.Tensor:
        """All rows, (N, ...), from each process's own part of them, to the bit; no row comes twice."""
        if self.size == 1:
            return own
        whole = own.new_empty(parts[-1].stop, *own.shape[1:])
        whole[parts[self.rank]] = own
        for rank, part in enumerate(parts):
            if part.start < part.stop:
                self._collect(lambda rank=rank, part=part: dist.broadcast(whole[part], src=rank))
        return whole

    def from_first(self, value: torch.Tensor) -> torch.Tensor:
        """Rank 0's `value`, which has the same shape everywhere, to the bit."""
        if self.size == 1:
            return value
        value = value.to(self.device).contiguous()
        self._collect(lambda: dist.broadcast(value, src=0))
        return value

    def bytes_from_first(self, data: bytes) -> bytes:
        """Rank 0's bytes; what the others give is dropped."""
        if self.size == 1:
            return data
        length = int(self.from_first(torch.tensor(len(data))).item())
        held = torch.zeros(length, dtype=torch.uint8)
        if self.first and length:
            held = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.from_first(held).cpu().numpy().tobytes()

    def agree(self, what: Mapping[str, object], *, when: str) -> None:
        """Compares a hash of each tree on all processes; raises CilError that names the first to differ, and whose."""
        if self.size == 1:
            return
        own = torch.stack([torch.frombuffer(bytearray(digest(part)), dtype=torch.uint8) for part in what.values()])
        ranks = [slice(rank, rank + 1) for rank in range(self.size)]
        every = self.gather(own.to(self.device)[None], ranks).cpu()  # (W, parts, 32)
        for index, name in enumerate(what):
            odd = [rank for rank in range(self.size) if not torch.equal(every[rank, index], every[0, index])]
            if odd:
                raise CilError(
                    f"{name} of rank {odd[0]} differ from those of rank 0 {when}; a machine computes wrongly, or the "
                    "ranks run different versions"
                )

    def refuse_one_gpu_for_two(self) -> None:
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

    def meet(self, place: str) -> None:
        """Waits until all processes have come here, however long one of them works before, unless one fails."""
        if self.watch:
            self.watch.meet(place)

    def uncut(self) -> AbstractContextManager:
        """A block that the end of another process doesn't cut off, as it would the rest of this one."""
        return self.watch.busy if self.watch else nullcontext()

    @contextmanager
    def one_by_one(self, place: str) -> Iterator[None]:
        """The first process of each machine goes first, then the others: a download happens once."""
        if self.launch.local_rank:
            self._wait_for_first(place)
        try:
            with self.places.working(place, at_most=math.inf):
                yield
        finally:
            if self.watch and not self.launch.local_rank:
                self.watch.say(f"{place}/{self._machine()}")

    def once_a_machine(self, place: str, make: Callable[[], str]) -> str:
        """What make() returns in the first process of this machine, for all of its processes, which wait for it."""
        if self.launch.local_rank:
            return self.watch.wait_for(f"{place}/{self._machine()}")
        with self.places.working(place, at_most=math.inf):
            made = make()
        if self.watch:
            self.watch.say(f"{place}/{self._machine()}", made)
        return made

    def _wait_for_first(self, place: str) -> None:
        if self.watch:
            self.watch.wait_for(f"{place}/{self._machine()}")

    def _machine(self) -> int:
        """The rank of its first process."""
        return self.rank - self.launch.local_rank

    def _collect(self, collective: Callable[[], object]) -> None:
        try:
            with self.places.collective():
                collective()
        except RuntimeError as error:  # torch's DistError is one, and so is what gloo raises
            raise PeerError(f"rank {self.rank} lost the others ({str(error).splitlines()[0]})") from error


ALONE = World()


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


@contextmanager
def join(launch: Launch, *, timeout_seconds: float, on_loss: Callable[[dict], None]) -> Iterator[World]:
    """The world of a run: alone without a launcher, else a process group that is destroyed on every exit.

    timeout_seconds: how long the others are waited for at the start, and after that a process that is silent or does
    not move, see `Watch`. on_loss: what a process does that has to end itself, see `Watch`.
    Its tensors are on the CPU until `World.use`. Raises PeerError where the others don't come.
    """
    if launch.size == 1:
        yield World(launch)
        return
    prefix, timeout = f"cil_func/{launch.restart}", timedelta(seconds=timeout_seconds)
    try:
        # Not by env://, whose keys are those of the attempt before where torchrun was given a --master_port: after a
        # restart a process would look for the dead one.
        store = dist.PrefixStore(prefix, _store(launch, timeout))
        _find_all(launch, store, timeout)
    except RuntimeError as error:
        raise PeerError(f"rank {launch.rank} found no other ({str(error).splitlines()[0]})") from error
    watch = Watch(launch.rank, launch.size, prefix=prefix, timeout=timeout_seconds, on_loss=on_loss)
    try:
        with watch:
            _connect(launch, store)
            yield World(launch, watch=watch)
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):  # of a group that has lost a process
                dist.destroy_process_group()


def _find_all(launch: Launch, store: dist.Store, timeout: timedelta) -> None:
    """Waits until all processes have reached the store."""
    store.set(f"here/{launch.rank}", "")
    store.wait([f"here/{rank}" for rank in range(launch.size)], timeout)
    store.set_timeout(_FOR_EVER)  # NCCL waits in it for a process that still compiles


def _connect(launch: Launch, store: dist.Store) -> None:
    """Makes the process group."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_FOR_EVER)
    except RuntimeError as error:
        raise PeerError(f"rank {launch.rank} lost the others ({str(error).splitlines()[0]})") from error


def _store(launch: Launch, timeout: timedelta) -> dist.TCPStore:
    """The launcher's store; where it has none, as outside torchrun, the first process's own."""
    hosts = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, launch.size, hosts, timeout, multi_tenant=True)


def device_of(launch: Launch, device: str) -> torch.device:
    """The device of this process: cuda means the GPU of its local rank, or the only GPU that the launcher shows it.

    Raises ConfigError where there is none. `World.refuse_one_gpu_for_two` finds those that got the same one.
    """
    if device != "cuda":
        return torch.device(device)
    count = torch.cuda.device_count()
    if count == 1:
        return torch.device("cuda", 0)
    if launch.local_rank >= count:
        raise ConfigError(
            f"--nproc_per_node: {launch.local_size} processes on this machine, and it has {count} GPUs; give {count}"
        )
    return torch.device("cuda", launch.local_rank)


def set_threads(launch: Launch, threads: int) -> None:
    """CPU threads: as configured, else the process's share of the machine's cores, for torchrun leaves it one."""
    torchruns = launch.local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1"
    if threads:
        torch.set_num_threads(threads)
    elif torchruns:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // launch.local_size))
