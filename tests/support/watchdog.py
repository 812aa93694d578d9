"""Tests in which code might wait for a pipe for ever: they fail instead."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pipes_let_go(root: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """After so long, whoever waits for a pipe below root is let go; raises TimeoutError at the end then."""
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
