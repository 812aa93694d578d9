"""Locks a file, so that of several processes one at a time packs images or downloads them."""

from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # mypy knows no module that may be missing


def lock(file: IO) -> None:
    """Locks an open file for this process alone until it is closed; waits while another process has it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
