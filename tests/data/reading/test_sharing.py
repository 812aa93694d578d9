"""One copy of a data set for the processes of a machine."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cil_func.data.reading import sharing
from cil_func.data.sources import Dataset

pytestmark = pytest.mark.skipif(not sharing.is_supported(), reason="memory without a name is Linux's")


def dataset(shared: sharing.SharedArrays) -> Dataset:
    images = shared.empty((3, 2, 2, 3))
    images[:] = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
    return Dataset(images[:2], np.array([1, 0]), images[:0], np.array([], dtype=np.int64), ("é", "\udcff"), ("a: b",))


def equal(first: Dataset, second: Dataset) -> bool:
    return all(
        np.array_equal(one, other) and one.dtype == other.dtype if isinstance(one, np.ndarray) else one == other
        for one, other in zip(first, second, strict=True)
    )


def test_an_attached_value_is_equal_and_shares_the_images_memory():
    shared = sharing.SharedArrays()
    made = dataset(shared)
    found = sharing.attach(shared.publish(made))
    assert equal(found, made)
    made.train_images[0, 0, 0, 0] = 99  # seen by all who map it
    assert found.train_images[0, 0, 0, 0] == 99
    found.train_images[1] = 7  # its own from then on, as far as it was written
    assert made.train_images[1, 0, 0, 0] == 12
    shared.close()
    assert found.train_images[0, 0, 0].tolist() == [99, 1, 2]  # it stays mapped


CHILD = """
import sys
from cil_func.data.reading import sharing
found = sharing.attach(sys.stdin.readline())
print(found.train_images.sum(), found.class_names[0], flush=True)
sys.stdin.readline()
"""


def test_another_process_maps_the_memory_and_a_killed_one_leaves_nothing():
    def names() -> set[str]:
        return {*os.listdir("/dev/shm"), *os.listdir("/tmp")} if os.path.isdir("/dev/shm") else set()

    shared = sharing.SharedArrays()
    made, before = dataset(shared), names()
    text = shared.publish(made)
    root = Path(__file__).parents[3]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=root, env=environment, **streams) as child:
        print(text, file=child.stdin, flush=True)
        assert child.stdout.readline() == f"{sum(range(24))} é\n"
        child.send_signal(signal.SIGKILL)
    assert not [name for name in names() - before if "cil_func" in name]
    shared.close()


def test_arrays_that_were_made_elsewhere_are_copied_in():
    shared = sharing.SharedArrays()
    own = np.arange(5)
    found = sharing.attach(shared.publish({"own": own, "strided": own[::2]}))
    own[0] = 9
    assert found["own"].tolist() == [0, 1, 2, 3, 4] and found["strided"].tolist() == [0, 2, 4]
    shared.close()


def test_an_array_that_is_gone_leaves_its_place_to_no_other():
    shared = sharing.SharedArrays()
    for value in range(3):
        array = shared.empty((1 << 20,))
        array[:] = value
        assert sharing.attach(shared.publish(array))[-1] == value
        del array
    shared.close()


def test_the_memory_of_another_process_is_not_taken_for_it(monkeypatch):
    """In another container the same process number may mean another file."""
    shared, other = sharing.SharedArrays(), sharing.SharedArrays()
    text, wrong = shared.publish([1]), other.publish([2])
    token = sharing.json.loads(wrong)["token"]
    for damaged in (
        sharing.json.dumps(sharing.json.loads(text) | {"token": token}),
        sharing.json.dumps(sharing.json.loads(text) | {"process": 2**22 + 1}),
    ):
        with pytest.raises(OSError):
            sharing.attach(damaged)
    shared.close()
    with pytest.raises(OSError):
        sharing.attach(text)


def test_a_size_that_the_system_refuses_is_a_lack_of_memory(monkeypatch):
    """A limit like that of `ulimit -f`, since such memory counts as a file."""

    def refuse(file, size):
        raise OSError(errno.EFBIG, "File too large")

    shared, before = sharing.SharedArrays(), len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(MemoryError, match=r"3\.0 GB: File too large"):
            shared.empty((1000, 1000, 1000, 3))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_system_without_it_is_known(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert not sharing.is_supported()
