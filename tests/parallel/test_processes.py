"""Several processes: how batches are split, what is computed together, and what a launcher says."""

import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import launching
import pytest
import several_processes
import tiny
import torch
import torch.distributed as dist

from cil_func import methods, optim, tree
from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.data.batches import Batch
from cil_func.data.images import Resident
from cil_func.errors import ConfigError, PeerError
from cil_func.networks.network import Network
from cil_func.networks.outputs import classes_of
from cil_func.parallel import batch_split, joining
from cil_func.parallel.hashing import digest
from cil_func.parallel.joining import join
from cil_func.parallel.launch import Launch, device_of, launched, set_threads
from cil_func.parallel.processes import Processes
from cil_func.training import step, step_state
from cil_func.training.preprocess import Preprocess

CPU = torch.device("cpu")
SHAPES = [(512, 128, 4), (512, 128, 3), (10, 2, 3), (12, 5, 2), (9, 4, 4), (6, 2, 7)]  # batch, group, processes


# whose images are whose


@pytest.mark.parametrize(("batch_size", "norm_batch", "size"), SHAPES)
def test_slices_are_whole_groups_in_order_and_together_the_batch(batch_size, norm_batch, size):
    sizes = {"batch_size": batch_size, "norm_batch": norm_batch}
    held = [batch_split.slice_of_rank(rank, size, **sizes) for rank in range(size)]
    places = [place for share in held for place in range(batch_size)[share]]
    assert places == list(range(batch_size))
    assert all(share.start % norm_batch == 0 or share.start == batch_size for share in held)
    longest = max(len(range(batch_size)[share]) for share in held)
    rows = batch_split.rows_per_process(size, **sizes)
    assert rows % norm_batch == 0 and longest <= rows < longest + norm_batch


def test_five_groups_on_three_processes_and_one_with_none():
    held = [batch_split.slice_of_rank(rank, 3, batch_size=10, norm_batch=2) for rank in range(3)]
    assert [(share.start, share.stop) for share in held] == [(0, 4), (4, 8), (8, 10)]
    held = [batch_split.slice_of_rank(rank, 4, batch_size=10, norm_batch=4) for rank in range(4)]
    assert [(share.start, share.stop) for share in held] == [(0, 4), (4, 8), (8, 10), (10, 10)]


@pytest.mark.parametrize("pixels", [1, 1 << 21])
@pytest.mark.parametrize(("batch_size", "norm_batch", "size"), SHAPES)
def test_every_step_has_the_rows_and_draws_of_one_process(batch_size, norm_batch, size, pixels, monkeypatch):
    """With a smaller last batch and any chunks: 4 processes with 128 images each are 1 with 512 in groups of 128."""
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", pixels)
    images = torch.randint(0, 256, (3 * batch_size - 1, 6, 4, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    settings = {
        "batch_size": batch_size, "key": 5, "device": CPU,
        "augment": augment.device(flip=True, crop_padding=2, auto_augment="rand-m9-mstd0.5-inc1"),
    }  # fmt: skip
    rows = torch.randperm(len(images), generator=torch.manual_seed(1))

    def steps(own):
        chunks = batches.epoch_chunks(Resident(images), torch.arange(len(images)), rows, own=own, **settings)
        found = []
        for chunk in chunks:
            parts = (leaf.split(chunk.sizes) for leaf in chunk.batch)
            found += zip(*parts, chunk.totals, strict=True)
        return found

    whole = steps(None)
    sizes = {"batch_size": batch_size, "norm_batch": norm_batch}
    shared = [steps(batch_split.slice_of_rank(rank, size, **sizes)) for rank in range(size)]
    assert [total for _, _, total in whole] == [batch_size, batch_size, batch_size - 1]
    for expected, *parts in zip(whole, *shared, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), expected[0])
        assert torch.equal(torch.cat([part[1] for part in parts]), expected[1])
        assert {part[2] for part in parts} == {expected[2]}


@pytest.mark.parametrize(("count", "norm_batch", "size"), [
    (50, 0, 64),  # 512, 256, 128, 64
    (50, 128, 64),  # within one group there is no need of a whole one
    (65, 0, 128), (256, 0, 256), (257, 128, 512), (512, 128, 512), (600, 128, 512),
    (129, 128, 256), (200, 100, 200),  # 512, 300, 200: in whole groups
    (1, 0, 2), (1, 3, 2),
])  # fmt: skip
def test_the_batch_size_is_halved_while_one_batch_has_the_whole_phase(count, norm_batch, size):
    assert batch_split.fit_batch_size(count, batch_size=512, norm_batch=norm_batch) == size


# what they add up to


def make_step(norm_batch: int, dtype: torch.dtype):
    """Returns (parts of WA's step, a train state, classes); 4 of 6 classes are old."""
    network = Network("resnet20", num_classes=6, num_phases=2, backbone=tiny.BACKBONE)
    params, state = tree.cast(tuple(network.init(0, 6)), dtype=dtype)
    stage, optimiser = methods.make("wa", methods.Options()).main, optim.sgd(momentum=0.9, weight_decay=5e-4)
    preprocess = Preprocess(*torch.tensor([[0.5] * 3, [0.25] * 3], dtype=dtype))
    parts = step.make(stage, network, optimiser, preprocess, dtype=dtype, norm_batch=norm_batch, padded=True)
    return parts, step_state.start(stage, optimiser, params, state), classes_of([4, 2], 1)


def draw_batch(size: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (size, 8, 8, 3), generator=generator, dtype=torch.uint8)
    taught = torch.randn(size, 6, generator=generator, dtype=dtype), torch.zeros(size, 64, dtype=dtype)
    return methods.Outputs(*taught), Batch(images, torch.randint(0, 6, (size,), generator=generator))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("images", [20, 13, 3])  # a full batch, a partial one, and one with less than a group
@pytest.mark.parametrize(("size", "norm_batch"), [(2, 4), (3, 4), (4, 4), (2, 10), (2, 5), (4, 5)])
def test_the_vectors_of_all_processes_add_up_to_that_of_one(size, norm_batch, images, dtype, tolerance):
    """5, 4 and 2 groups on 2 to 4 processes. Gradients, statistics and measures are divided by all images' number."""
    sizes = {"batch_size": 20, "norm_batch": norm_batch}
    parts, train_state, classes = make_step(norm_batch, dtype)
    taught, batch = draw_batch(images, dtype)
    whole, _ = parts.gradient(train_state, *step_state.pad(taught, batch, 20 - images), classes)
    rows, total = batch_split.rows_per_process(size, **sizes), torch.zeros_like(whole)
    for rank in range(size):
        own = batch_split.slice_of_rank(rank, size, **sizes)
        part = tree.map(lambda leaf, own=own: leaf[own], (taught, batch))
        total += parts.gradient(train_state, *step_state.pad(*part, rows - len(part[1].labels)), classes)[0]
    mean, expected = total[:-1] / total[-2], whole[:-1] / whole[-2]
    assert whole[-2] == images
    torch.testing.assert_close(mean, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_two_groups_are_not_four():
    """Otherwise the tests above couldn't tell by which statistics an image is normalised."""
    vectors = []
    for norm_batch in (10, 5):
        parts, train_state, classes = make_step(norm_batch, torch.float64)
        vectors.append(parts.gradient(train_state, *draw_batch(20, torch.float64), classes)[0])
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_gradients_are_those_of_torchs_distributed_data_parallel():
    """Ten steps of two processes, compared with a plain torch.nn module without torch.func."""
    words = launching.command(2, script="tests/support/ddp_oracle.py")
    done = launching.run(words, by=launching.fork)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


# two real processes


def test_three_processes_communicate():
    every = several_processes.run(3, several_processes.talk)
    (place,) = {found.pop("place") for found in every}  # one count, by which the watch sees who is behind
    assert place[0] == 0 and place[1] > 0 and place[1] % 2 == 0
    for found in every:
        assert found.pop("differ").startswith("weights of rank 2 differ from those of rank 0 after phase 1")
        assert found == {
            "summed": {"weights": [6.0, 30.0], "more": {"bias": 6.0}},  # 1 + 2 + 3, 10 each, 0 + 2 + 4
            "gathered": True, "parts": [(0, 6), (6, 10), (10, 10)], "broadcast": [7], "bytes": [b"", b"\0\0\0"],
            "added": [6.0, 30.0, 5.0], "signals_at_step": [0, 5], "consulted": 3, "collectives": (1, 3),
        }  # fmt: skip


def test_alone_everything_is_the_identity():
    processes, vector = Processes(), torch.tensor([1.0, 2.0, 0.0])
    assert processes.reduce(vector) is vector and vector.tolist() == [1, 2, 0]
    assert processes.signals_at_step(3) == 3 and processes.signals_now(4) == 4
    assert processes.broadcast_bytes(b"x") == b"x"
    assert processes.split_rows(10, 3) == [slice(0, 10)] and processes.gather_rows(vector, [slice(0, 3)]) is vector
    part = {"weights": vector}
    assert processes.sum(part) is part and processes.collectives == 0


def test_reading_the_data_is_announced_as_work_that_may_last():
    """Otherwise processes that are ready would take one that is still reading for one that hangs."""
    processes, seen = Processes(), []
    with processes.first_of_machine_first("data"):
        seen.append(processes.activity.record()[3:])
    made = processes.once_per_machine("data", lambda: seen.append(processes.activity.record()[3:]) or "there")
    assert made == "there"
    assert seen == [("data", math.inf)] * 2 and processes.activity.record().work == ""


def test_a_digest_sees_values_shapes_and_dtypes():
    leaves = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3).double(), torch.zeros(6), torch.tensor(-0.0), 1]
    assert len({digest([leaf]) for leaf in leaves}) == len(leaves)
    assert digest({"a": torch.ones(3)}) == digest({"a": torch.ones(6)[::2]})


# what a launcher says


TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1",
}  # fmt: skip


def test_torchruns_variables():
    assert launched({}) == Launch(0, 1, 0, 1)
    assert launched(TORCHRUN) == Launch(3, 4, 1, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four"), ({"RANK": "4"}, "rank 4 of 4"),
        ({"LOCAL_RANK": "2"}, "local rank 2"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"), ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc is no port"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"), ({"RANK": None}, "RANK is not set"),
    ],
)  # fmt: skip
def test_a_broken_launcher_is_refused(changes, named):
    environment = {key: value for key, value in (TORCHRUN | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=named):
        launched(environment)


@pytest.mark.parametrize(("norm_batch", "pads"), [(0, True), (32, True), (8, False), (0, False)])
def test_one_norm_group_can_not_be_shared(norm_batch, pads):
    settings = {"batch_size": 32, "norm_batch": norm_batch, "pads": pads, "table": "optim.first_phase"}
    batch_split.refuse_single_group(1, **settings)
    for size, fits in ((2, 16), (3, 11)):
        match = f"first_phase.norm_batch={fits} " if pads else "model.backbone: this timm model"
        with pytest.raises(ConfigError, match=match):
            batch_split.refuse_single_group(size, **settings)
    batch_split.refuse_single_group(2, **(settings | {"norm_batch": 31, "pads": True}))


def test_threads_are_an_equal_share_of_the_cores_unless_set_elsewhere(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what torchrun sets
    set_threads(Launch(0, 4, 0, 4), 0)
    set_threads(Launch(0, 4, 0, 4), 3)
    set_threads(Launch(), 0)  # one process: torch's own choice
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    set_threads(Launch(0, 4, 0, 4), 0)
    assert given == [1, 3]


def test_the_gpu_of_a_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(Launch(3, 4, 1, 2), "cuda") == torch.device("cuda", 1)
    assert device_of(Launch(3, 4, 1, 2), "cpu") == CPU
    with pytest.raises(ConfigError, match="2 GPUs"):
        device_of(Launch(2, 3, 2, 3), "cuda")


def test_a_launcher_may_show_each_process_one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of(Launch(3, 4, 1, 2), "cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(("gpus", "refused"), [("aba", "ranks 0 and 2 have the same GPU"), ("abc", "")])
def test_two_processes_on_one_gpu_are_refused(gpus, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    processes = Processes(Launch(0, 3, 0, 3))
    processes.watch = SimpleNamespace(exchange=lambda name, own: [own, *gpus[1:]])
    processes.device = torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=refused) if refused else nullcontext():
        processes.refuse_shared_gpu()


def answer(store, rank: int) -> str:
    """Does what the process of a rank does until all have come. Returns the name of the attempt."""
    return joining._attempt(Launch(rank, 2, rank, 2), store, timedelta(seconds=20))


def test_processes_meet_those_of_their_own_attempt_alone():
    """What an earlier attempt has left in the store doesn't matter, whatever the launchers count."""
    port = launching.free_port()
    store = dist.TCPStore("127.0.0.1", port, is_master=True)
    names = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):  # in the second and third one the store has all that the one before wrote
            late = pool.submit(answer, store.clone(), 1)
            time.sleep(0.3)
            assert not late.done()  # it has seen an old list, without its own answer
            first = pool.submit(answer, store.clone(), 0)
            assert first.result() == late.result()
            names.append(first.result())
    assert len(set(names)) == 3


def test_torchs_own_timeouts_are_longer_than_a_compilation(monkeypatch):
    """NCCL's timeout counts from the first collective; before it, NCCL waits in the store for the others."""
    port, made = launching.free_port(), {}
    agent = dist.TCPStore("127.0.0.1", port, is_master=True)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **settings: made.update(settings))
    threading.Thread(target=answer, args=(agent.clone(), 1), daemon=True).start()
    with join(Launch(0, 2, 0, 2), timeout_seconds=5, on_loss=print):
        assert made["timeout"] >= timedelta(days=1) and made["store"].timeout >= timedelta(days=1)


def test_a_process_that_never_comes_is_waited_for_at_the_start_alone(monkeypatch):
    port = launching.free_port()
    agent = dist.TCPStore("127.0.0.1", port, is_master=True)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(PeerError, match="rank 0 found no other"):
        join(Launch(0, 2, 0, 2), timeout_seconds=0.2, on_loss=print).__enter__()
    del agent


def test_too_few_images_for_the_processes_name_a_way_that_works():
    with pytest.raises(ConfigError, match=r"too few for 2 processes, .* use one process, or larger batches"):
        batch_split.refuse_single_group(2, batch_size=2, norm_batch=2, pads=True, table="optim")


def test_threads_where_the_system_does_not_say_which_cores(monkeypatch):
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    set_threads(Launch(0, 4, 0, 4), 0)
    assert given == [2]
