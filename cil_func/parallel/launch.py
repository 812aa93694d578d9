"""What the launcher (torchrun) says about this process, its device, its number of threads, and where it runs."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from cil_func.errors import ConfigError


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that the launcher has started; by default it is the only one.

    rank: its number among all processes, from 0. size: the number of all processes.
    local_rank, local_size: the same among the processes of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Returns what torchrun's environment variables say; `Launch()` if WORLD_SIZE is not set, whatever the others are.

    Raises ConfigError if a variable is no integer, if a rank is outside its size, or if WORLD_SIZE is above 1 and RANK,
    LOCAL_RANK, MASTER_ADDR or MASTER_PORT is missing, or MASTER_PORT is no port.
    """
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    if "WORLD_SIZE" not in environment:
        return Launch()
    try:
        launch = Launch(**{key: int(environment[name]) for key, name in names.items() if name in environment})
    except ValueError:
        given = ", ".join(f"{name}={environment.get(name)}" for name in names.values())
        raise ConfigError(f"the launcher's variables are not numbers: {given}; start with torchrun") from None
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if launch.size > 1 and missing:
        raise ConfigError(f"WORLD_SIZE={launch.size}, and {missing[0]} is not set; start with torchrun")
    port = environment.get("MASTER_PORT", "1")
    if launch.size > 1 and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"MASTER_PORT={port} is no port, a number from 1 to 65535; start with torchrun")
    if not (0 <= launch.rank < launch.size and 0 <= launch.local_rank < launch.local_size):
        raise ConfigError(f"rank {launch.rank} of {launch.size}, local rank {launch.local_rank}; start with torchrun")
    return launch


def device_of(launch: Launch, device: str) -> torch.device:
    """Returns the device of this process.

    device: "cpu", or "cuda" for the GPU whose number is the local rank, or for the only GPU that the launcher lets this
    process see.
    Raises ConfigError if the machine has several GPUs, but fewer than processes. Whether two processes have the same
    GPU is checked by `Processes.refuse_shared_gpu`.
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


def gpus_of(launch: Launch) -> range:
    """Returns the numbers of the GPUs that the processes of this machine take, this one's among them."""
    return range(1 if torch.cuda.device_count() == 1 else launch.local_size)


def set_threads(launch: Launch, threads: int) -> None:
    """Sets torch's number of CPU threads in this process.

    threads: the configured number. 0 means an equal share of the machine's cores, since torchrun sets one thread for
    each process; but with a single process on the machine, or with OMP_NUM_THREADS above 1, 0 changes nothing.
    """
    set_by_torchrun = launch.local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1"
    if threads:
        torch.set_num_threads(threads)
    elif set_by_torchrun:
        torch.set_num_threads(max(1, cores() // launch.local_size))


def cores() -> int:
    """Returns how many processor cores this process may use; where the system doesn't say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here() -> str:
    """Returns a text that two processes have in common only where one knows the other by its number.

    Machines and containers may have one host name and be several; so the start of the system and the namespace of the
    numbers count too, where the system has them.
    """
    known = [socket.gethostname()]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(known)
