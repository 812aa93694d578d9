"""Lets tests fail in which code would wait for a pipe for ever."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pipes_let_go(root: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Returns a context manager that ends waits for pipes below `root` after a time, and raises TimeoutError then."""
    bitten = threading.Event()

    def bite() -> None:
        bitten.set()
        for path in root.rglob("*"):
            if stat.S_ISFIFO(path.lstat().st_mode):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # a writer comes, and goes

    timer = threading.Timer(seconds, bite)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if bitten.is_set():
            raise TimeoutError(f"somebody waited for a pipe below {root}")
