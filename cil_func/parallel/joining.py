"""Lets the processes of a run find each other and form a process group."""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from cil_func.errors import PeerError
from cil_func.parallel.failure_watch import Failure, FailureWatch
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes

T = TypeVar("T")

# The timeout of torch's own guards. They would end a run without a message (NCCL) or name the connection as the cause
# (gloo). `FailureWatch` names the process, and knows about announced long work, so it has to be first.
_FOR_EVER = timedelta(days=7)
_PAUSE_SECONDS = 0.05  # between two looks for the other processes


@contextmanager
def join(launch: Launch, *, timeout_seconds: float, on_loss: Callable[[Failure], None]) -> Iterator[Processes]:
    """Returns a context manager that yields the `Processes` of a run, with a process group if there are several.

    The process group is destroyed at the end of the block, also if the block raises.
    launch: which of the processes this is. timeout_seconds: how long to wait for the others at the start, and the
    timeout of `FailureWatch`. on_loss: see `FailureWatch`; called before a process whose main thread hangs is ended.
    The device is the CPU until `Processes.set_device` is called. Raises PeerError if the others don't come in time.
    """
    if launch.size == 1:
        yield Processes(launch)
        return
    timeout = timedelta(seconds=timeout_seconds)
    try:
        # Not by env://: if torchrun was given a --master_port, its keys are the same after a restart, and a process
        # would look for one that is dead.
        launchers = _store(launch, timeout)
        prefix = f"cil_func/{_attempt(launch, launchers, timeout)}"
        store = dist.PrefixStore(prefix, launchers)
        store.set_timeout(_FOR_EVER)  # NCCL waits in the store for a process that is still compiling
    except RuntimeError as error:
        raise PeerError(f"rank {launch.rank} found no other process ({str(error).splitlines()[0]})") from error
    watch = FailureWatch(launch.rank, launch.size, prefix=prefix, timeout=timeout_seconds, on_loss=on_loss)
    try:
        with watch:
            _connect(launch, store)
            yield Processes(launch, watch=watch)
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):  # raised if a process of the group was lost
                dist.destroy_process_group()


def _attempt(launch: Launch, store: dist.Store, timeout: timedelta) -> str:
    """Waits until all processes have come. Returns a name that these have agreed on, and no others.

    After a restart the store still has what ended processes wrote, and the launchers of several machines count restarts
    apart. So rank 0 draws a name, each of the others writes a random id under this name, and rank 0 lists the ids: who
    isn't in the list waits for the next name. Raises RuntimeError after the timeout.
    """
    own, failure = uuid.uuid4().hex, f"{launch.size} processes did not come together"
    if launch.rank == 0:
        answers = [f"cil_func/{own}/answer/{rank}" for rank in range(1, launch.size)]
        store.set("cil_func/attempt", own)
        _poll(lambda: store.check(answers), timeout, failure)
        store.set(f"cil_func/{own}/answers", json.dumps([store.get(key).decode() for key in answers]))
        return own
    answered: set[str] = set()

    def listed() -> str:
        """Returns the name if rank 0 has this process in its list, else ""."""
        if not store.check(["cil_func/attempt"]):
            return ""
        name = store.get("cil_func/attempt").decode()
        if name not in answered:
            store.set(f"cil_func/{name}/answer/{launch.rank}", own)
            answered.add(name)
        answers = f"cil_func/{name}/answers"
        return name if store.check([answers]) and own in json.loads(store.get(answers)) else ""

    return _poll(listed, timeout, failure)


def _connect(launch: Launch, store: dist.Store) -> None:
    """Makes the process group. Raises PeerError if a process is lost meanwhile."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_FOR_EVER)
    except RuntimeError as error:
        raise PeerError(f"rank {launch.rank} lost the others ({str(error).splitlines()[0]})") from error


def _store(launch: Launch, timeout: timedelta) -> dist.TCPStore:
    """Returns a connection to the launcher's store, for torch's process group.

    Outside torchrun there is no store yet: rank 0 makes it. timeout: for finding it, and for each call of it later.
    Raises RuntimeError after the timeout.
    """
    hosts = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if not hosts:
        _poll(lambda: _answers(host, port), timeout, f"nothing answers at {host}:{port}")
    return dist.TCPStore(host, port, launch.size, hosts, timeout, wait_for_workers=False, multi_tenant=True)


def _answers(host: str, port: int) -> bool:
    """Returns whether a process takes connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _poll(find: Callable[[], T], timeout: timedelta, failure: str) -> T:
    """Waits until find() returns something true, and returns it. Raises RuntimeError after the timeout.

    failure: its message. Torch's own waiting is not used: meanwhile Python would answer no signal.
    """
    end = time.monotonic() + timeout.total_seconds()
    while not (found := find()):
        if time.monotonic() > end:
            raise RuntimeError(f"{failure} within {timeout.total_seconds():.0f} s")
        time.sleep(_PAUSE_SECONDS)
    return found
