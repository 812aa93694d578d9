"""One copy of a data set for all processes of a machine, in memory without a name.

The first process puts arrays into files that only memory holds (memfd_create) and says where; the others open them
under /proc and map them. Unlike shared memory in /dev/shm they may be larger than that is (64 MB in a container), and
the system takes them back when the last process ends, however it ends: nothing has to be cleaned up.
"""

import json
import mmap
import os
import pickle
import secrets
from typing import Any

import numpy as np


def is_supported() -> bool:
    """Whether this system has such memory, which Linux has."""
    try:
        os.close(os.memfd_create("probe"))
    except (AttributeError, OSError):
        return False
    return os.path.isdir("/proc/self/fd")


class SharedArrays:
    """Arrays that other processes of this machine can map, until `close`."""

    def __init__(self) -> None:
        # address -> (descriptor, the memory, which has to stay: another array could come to lie there)
        self._files: dict[int, tuple[int, np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of uint8, all zeros. Raises MemoryError where the system gives no memory of that size."""
        size = int(np.prod(shape, dtype=np.int64))
        file = os.memfd_create("cil_func")
        try:
            os.ftruncate(file, max(1, size))
            memory = mmap.mmap(file, max(1, size))
        except OSError as error:  # among them a limit of the size of files, which these are
            os.close(file)
            raise MemoryError(f"{size / 1e9:.1f} GB: {error.strerror}") from error
        array = np.frombuffer(memory, dtype=np.uint8, count=size)
        self._files[array.ctypes.data] = (file, array)
        return array.reshape(shape)

    def publish(self, value: Any) -> str:
        """A text by which `attach` finds the value in another process; its arrays are copied if `empty` made none."""
        buffers: list[pickle.PickleBuffer] = []
        token = secrets.token_bytes(16)
        head = token + pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        places = [self._place(np.frombuffer(data, dtype=np.uint8)) for data in (head, *(b.raw() for b in buffers))]
        return json.dumps({"process": os.getpid(), "places": places, "token": token.hex()})

    def close(self) -> None:
        """Ends the time in which others can attach; what is mapped stays."""
        for file, _ in self._files.values():
            os.close(file)
        self._files.clear()

    def _place(self, data: np.ndarray) -> tuple[int, int]:
        """(descriptor, bytes)"""
        if data.ctypes.data not in self._files:
            copied = self.empty(data.shape)
            copied[:] = data
            data = copied
        return self._files[data.ctypes.data][0], data.nbytes


def attach(text: str) -> Any:
    """The value that another process published; its arrays share that one's memory, and change only here.

    Raises OSError where this process can't see the other's memory.
    """
    told = json.loads(text)
    head, *buffers = (_mapped(f"/proc/{told['process']}/fd/{file}", size) for file, size in told["places"])
    token = bytes.fromhex(told["token"])
    if head[: len(token)] != token:  # processes are counted otherwise here, and it is another one's file
        raise OSError(f"process {told['process']} is another one here")
    return pickle.loads(head[len(token) :], buffers=buffers)


def _mapped(path: str, size: int) -> memoryview:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise OSError(f"{path} is too small")
        return memoryview(mmap.mmap(file.fileno(), max(1, size), access=mmap.ACCESS_COPY))[:size]
