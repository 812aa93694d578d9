"""Shares one copy of a data set among all processes of a machine.

The first process puts arrays into files that exist in memory only (memfd_create) and publishes their addresses. The
others open these files under /proc and map them. Unlike shared memory in /dev/shm, such files may be larger than that
file system (64 MB in a container), and the system frees them when the last process ends, so nothing has to be deleted.
"""

import json
import mmap
import os
import pickle
import secrets
from typing import Any

import numpy as np


def is_supported() -> bool:
    """Returns whether this system can share arrays in this way. Linux can."""
    try:
        os.close(os.memfd_create("probe"))
    except (AttributeError, OSError):
        return False
    return os.path.isdir("/proc/self/fd")


class SharedArrays:
    """Makes arrays that other processes of this machine can map until `close` is called or this process ends."""

    def __init__(self) -> None:
        # {address: (file descriptor, array)}. The array is kept alive, or another one could get its address.
        self._files: dict[int, tuple[int, np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a new shared array of uint8, all zeros.

        Raises MemoryError if the system doesn't give that much memory.
        """
        size = int(np.prod(shape, dtype=np.int64))
        file = os.memfd_create("cil_func")
        try:
            os.ftruncate(file, max(1, size))
            memory = mmap.mmap(file, max(1, size))
        except OSError as error:  # includes a limit of the size of files, which counts for these too
            os.close(file)
            raise MemoryError(f"{size / 1e9:.1f} GB: {error.strerror}") from error
        array = np.frombuffer(memory, dtype=np.uint8, count=size)
        self._files[array.ctypes.data] = (file, array)
        return array.reshape(shape)

    def publish(self, value: Any) -> str:
        """Returns a text from which `attach` makes `value` in another process of this machine.

        value: anything that can be pickled. Its arrays that were made by `empty` are shared as they are, other arrays
        are copied into new shared ones.
        """
        buffers: list[pickle.PickleBuffer] = []
        token = secrets.token_bytes(16)
        head = token + pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        pieces: list[bytes | memoryview] = [head, *(buffer.raw() for buffer in buffers)]
        places = [self._place(np.frombuffer(data, dtype=np.uint8)) for data in pieces]
        return json.dumps({"process": os.getpid(), "places": places, "token": token.hex()})

    def close(self) -> None:
        """Closes the files, after which no process can attach any more. Arrays that are mapped stay valid."""
        for file, _ in self._files.values():
            os.close(file)
        self._files.clear()

    def _place(self, data: np.ndarray) -> tuple[int, int]:
        """Returns (file descriptor, number of bytes) of data, which is copied if it is not shared yet."""
        if data.ctypes.data not in self._files:
            copied = self.empty(data.shape)
            copied[:] = data
            data = copied
        return self._files[data.ctypes.data][0], data.nbytes


def attach(text: str) -> Any:
    """Returns the value that another process of this machine has published.

    text: what `SharedArrays.publish` has returned there. Arrays use the other process's memory, without a copy. Writing
    into them changes only this process's view.
    Raises OSError if this process can't see the other one's memory.
    """
    published = json.loads(text)
    head, *buffers = (_map(f"/proc/{published['process']}/fd/{file}", size) for file, size in published["places"])
    token = bytes.fromhex(published["token"])
    if head[: len(token)] != token:  # process numbers differ between containers: this file is another process's
        raise OSError(f"process {published['process']} is another one here")
    return pickle.loads(head[len(token) :], buffers=buffers)


def _map(path: str, size: int) -> memoryview:
    """Maps the first `size` bytes of a file, copy on write. Raises OSError if it is smaller."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise OSError(f"{path} is too small")
        return memoryview(mmap.mmap(file.fileno(), max(1, size), access=mmap.ACCESS_COPY))[:size]
