"""Keys: every random draw in this package starts here.

A key is an `int`. A new key is derived from an old one and from what the draw is for, so there is no
random state to carry or to save: `fold_in(seed, "order", phase, epoch)` is the same number on every
machine, in every process, however often the run was stopped in between.
"""

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_BITS = 63  # torch.Generator.manual_seed takes a signed 64-bit number


def fold_in(key: int, *data: int | str) -> int:
    """Derives a key from `key` and from ints or strings that say what the draw is for.

    Returns an int in [0, 2**63). Equal arguments give equal keys everywhere; any other argument, order
    or grouping gives an unrelated key (BLAKE2b, so `fold_in(k, 1, 2)` is not `fold_in(k, 12)`).
    Raises TypeError for data that is neither an int nor a str.
    Source: the name and the idea are `jax.random.fold_in`.
    """
    digest = hashlib.blake2b(_encode(key), digest_size=8)
    for item in data:
        digest.update(_encode(item))
    return int.from_bytes(digest.digest(), "little") & ((1 << _BITS) - 1)


def generator(key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A `torch.Generator` on `device` whose draws depend on nothing but `key`.

    On the CPU torch seeds it with the low 32 bits alone (2.15): keys that differ only above them draw the
    same, which two of 80,000 folded keys do with a chance of one half, and which harms nothing. The same
    key on another kind of device draws other numbers.
    """
    return torch.Generator(device=device).manual_seed(operator.index(key) & ((1 << _BITS) - 1))


@contextmanager
def seeded(key: int | None, device: str | torch.device = "cpu") -> Iterator[None]:
    """Makes torch's global generator of `device` draw from `key` inside; afterwards it goes on as if nothing was drawn.

    For code that isn't ours and takes no generator. key: None changes nothing.
    """
    if key is None:
        yield
        return
    device = torch.device(device)
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        index = torch.cuda.current_device() if device.index is None and cuda else device.index
        own = torch.cuda.default_generators[index] if cuda else torch.default_generator
        own.manual_seed(operator.index(key) & ((1 << _BITS) - 1))
        yield


def _encode(item: int | str) -> bytes:
    """One item as bytes that no other item, nor a sequence of others, can have."""
    if isinstance(item, str):
        kind, raw = b"s", item.encode()
    elif isinstance(item, bool) or not hasattr(item, "__index__"):
        raise TypeError(f"fold_in: {item!r} is a {type(item).__name__}; give ints and strings")
    else:
        kind, raw = b"i", str(operator.index(item)).encode()
    return kind + len(raw).to_bytes(8, "little") + raw
