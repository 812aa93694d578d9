"""What a launcher (torchrun) says about this process, and which device and how many threads follow from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cil_func.errors import ConfigError


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


def device_of(launch: Launch, device: str) -> torch.device:
    """The device of this process: cuda means the GPU of its local rank, or the only GPU that the launcher shows it.

    Raises ConfigError where there is none. `Processes.refuse_shared_gpu` finds those that got the same one.
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
