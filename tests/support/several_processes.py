"""Several real processes for one function, without a launcher."""

import os

import launching
import torch
import torch.multiprocessing as multiprocessing

from cil_func import tree
from cil_func.errors import CilError
from cil_func.parallel.joining import join
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes


def run(size: int, task) -> list:
    """Returns what task(processes), a function of this module, returns in each of `size` processes."""
    results = multiprocessing.Manager().dict()
    launching.ensure_forks()
    arguments = (size, launching.free_port(), task, results)
    multiprocessing.start_processes(_one, arguments, nprocs=size, start_method="forkserver")
    return [results[rank] for rank in range(size)]


def _one(rank: int, size: int, port: int, task, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join(Launch(rank, size, rank, size), timeout_seconds=60, on_loss=print) as processes:
        results[rank] = task(processes)
        if not processes.first:
            processes.watch.announce(f"done/{rank}")
        for other in range(1, size if processes.first else 0):  # rank 0 holds the store
            processes.watch.wait_for_announcement(f"done/{other}")


def talk(processes: Processes) -> dict:
    with processes.first_of_machine_first("data"):  # rank 0 waits for nobody
        pass
    processes.wait_for_all("data")
    parts = processes.split_rows(10, 3)  # 4 units of 3: rows 0-5, 6-9, none
    rows = torch.arange(20.0).view(10, 2)
    vector = torch.tensor([processes.rank + 1.0, 10.0, 0.0])
    signals_at_step = [processes.signals_at_step(5 if processes.rank == 1 else 0)]
    added = processes.reduce(vector.clone()).tolist()
    signals_at_step.append(processes.signals_at_step(5 if processes.rank == 1 else 0))
    part = {"weights": torch.tensor([processes.rank + 1.0, 10.0]), "more": {"bias": torch.tensor(processes.rank * 2.0)}}
    found = {
        "summed": tree.map(torch.Tensor.tolist, processes.sum(part)),
        "gathered": torch.equal(processes.gather_rows(rows[parts[processes.rank]].clone(), parts), rows),
        "parts": [(part.start, part.stop) for part in parts],
        "broadcast": processes.broadcast(torch.tensor([processes.rank + 7])).tolist(),
        "bytes": [processes.broadcast_bytes(bytes([processes.rank]) * count) for count in (0, 3)],
        "added": added, "signals_at_step": signals_at_step,
        "consulted": processes.signals_now(3 if processes.rank == 2 else 0),
        "collectives": (processes.collectives, processes.numbers),
    }  # fmt: skip
    processes.check_equal({"numbers": [torch.arange(3)], "words": torch.tensor(1)}, when="now")
    try:
        trees = {"same": torch.tensor(1), "weights": torch.tensor(processes.rank // 2)}
        processes.check_equal(trees, when="after phase 1")
    except CilError as error:
        found["differ"] = str(error)
    found["place"] = processes.activity.record()[:2]
    return found
