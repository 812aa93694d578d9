"""What a training reports while it goes on: events, each a dict with the key "event"."""

from typing import Protocol


class Emit(Protocol):
    """Takes an event as it happens."""

    def __call__(self, event: dict, /) -> None: ...
