"""Reads and writes the launcher's key-value store, which all processes of a run can reach."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from cil_func.errors import PeerError


class StoreError(PeerError):
    """The launcher's store is gone, and with it all other processes."""


class SharedStore:
    """This process's connection to the launcher's key-value store. Several threads may use it, one call at a time.

    prefix: put before each name; it differs after a restart, so that nothing of the earlier attempt is seen.
    timeout: seconds that a call may wait for the store. The address is in MASTER_ADDR and MASTER_PORT.
    Each method raises StoreError if the store is gone, which ends together with the launcher of the first machine.
    """

    def __init__(self, prefix: str, timeout: float):
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._prefix, self._lock = prefix, threading.Lock()
        with self._call():
            # Not torch's own connection: torch's waits on it would delay the beats of `FailureWatch`.
            self._store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout))

    def set(self, name: str, value: str) -> None:
        """Stores a value under a name, in place of an earlier value."""
        with self._call():
            self._store.set(self._key(name), value)

    def set_once(self, name: str, value: str) -> str:
        """Stores a value unless the name has one. Returns the name's value now: this one or the earlier one."""
        with self._call():
            return self._store.compare_set(self._key(name), "", value).decode()

    def get(self, name: str) -> str:
        """Returns the value of a name. Waits for it if there is none yet; raises StoreError after the timeout."""
        with self._call():
            return self._store.get(self._key(name)).decode()

    def get_all(self, names: list[str]) -> list[str] | None:
        """Returns the values of several names, in their order, or None if one of them has none yet."""
        keys = list(map(self._key, names))
        with self._call():
            return [value.decode() for value in self._store.multi_get(keys)] if self._store.check(keys) else None

    def has(self, name: str) -> bool:
        """Returns whether the name has a value."""
        with self._call():
            return self._store.check([self._key(name)])

    def add(self, name: str, count: int) -> int:
        """Adds `count` to the number under a name, which is 0 at first. Returns the sum; with count=0 it only reads."""
        with self._call():
            return self._store.add(self._key(name), count)

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except RuntimeError as error:  # of torch's several kinds
                raise StoreError(f"the launcher of rank 0 is gone ({str(error).splitlines()[0]})") from error

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"
