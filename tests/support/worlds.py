"""A world of real processes for one function of it, without a launcher."""

import os

import processes
import torch
import torch.multiprocessing as multiprocessing

from cil_func.engine import distributed
from cil_func.engine.distributed import Launch, World
from cil_func.errors import CilError


def run(size: int, task) -> list:
    """What task(world), a function of this module, returns in each of `size` processes."""
    results = multiprocessing.Manager().dict()
    processes.ensure_forks()
    arguments = (size, processes.free_port(), task, results)
    multiprocessing.start_processes(_one, arguments, nprocs=size, start_method="forkserver")
    return [results[rank] for rank in range(size)]


def _one(rank: int, size: int, port: int, task, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.join(Launch(rank, size, rank, size), timeout_seconds=60, on_loss=print) as world:
        results[rank] = task(world)
        if not world.first:
            world.watch.say(f"done/{rank}")
        for other in range(1, size if world.first else 0):  # rank 0 holds the store
            world.watch.wait_for(f"done/{other}")


def talk(world: World) -> dict:
    with world.one_by_one("data"):  # rank 0 waits for nobody
        pass
    world.meet("data")
    parts = world.parts(10, 3)  # 4 units of 3: rows 0-5, 6-9, none
    rows = torch.arange(20.0).view(10, 2)
    vector = torch.tensor([world.rank + 1.0, 10.0, 0.0])
    heard = [world.heard(5 if world.rank == 1 else 0)]
    added = world.reduce(vector.clone()).tolist()
    heard.append(world.heard(5 if world.rank == 1 else 0))
    found = {
        "gathered": torch.equal(world.gather(rows[parts[world.rank]].clone(), parts), rows),
        "parts": [(part.start, part.stop) for part in parts],
        "from_first": world.from_first(torch.tensor([world.rank + 7])).tolist(),
        "bytes": [world.bytes_from_first(bytes([world.rank]) * count) for count in (0, 3)],
        "added": added, "heard": heard, "consulted": world.consult(3 if world.rank == 2 else 0),
        "collectives": (world.collectives, world.numbers),
    }  # fmt: skip
    world.agree({"numbers": [torch.arange(3)], "words": torch.tensor(1)}, when="now")
    try:
        world.agree({"same": torch.tensor(1), "weights": torch.tensor(world.rank // 2)}, when="after phase 1")
    except CilError as error:
        found["differ"] = str(error)
    found["place"] = world.places.record()[:2]
    return found
