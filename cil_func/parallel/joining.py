"""How the processes of a run find each other and form a process group, and how they part."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from cil_func.errors import PeerError
from cil_func.parallel.failure_watch import FailureWatch
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes

# Of torch's own guards. The watch names the process that hangs, and lets one work long that has announced it; torch's
# guards would end the run without a word (NCCL) or blame the connection (gloo), so they have to come after it.
_FOR_EVER = timedelta(days=7)


@contextmanager
def join(launch: Launch, *, timeout_seconds: float, on_loss: Callable[[dict], None]) -> Iterator[Processes]:
    """The processes of a run: alone without a launcher, else a process group that is destroyed on every exit.

    timeout_seconds: how long the others are waited for at the start, and after that a process that is silent or does
    not move, see `FailureWatch`. on_loss: what a process does that has to end itself, see `FailureWatch`.
    Its tensors are on the CPU until `Processes.set_device`. Raises PeerError where the others don't come.
    """
    if launch.size == 1:
        yield Processes(launch)
        return
    prefix, timeout = f"cil_func/{launch.restart}", timedelta(seconds=timeout_seconds)
    try:
        # Not by env://, whose keys are those of the attempt before where torchrun was given a --master_port: after a
        # restart a process would look for the dead one.
        store = dist.PrefixStore(prefix, _store(launch, timeout))
        _find_all(launch, store, timeout)
    except RuntimeError as error:
        raise PeerError(f"rank {launch.rank} found no other ({str(error).splitlines()[0]})") from error
    watch = FailureWatch(launch.rank, launch.size, prefix=prefix, timeout=timeout_seconds, on_loss=on_loss)
    try:
        with watch:
            _connect(launch, store)
            yield Processes(launch, watch=watch)
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
