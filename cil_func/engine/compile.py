"""The only place that calls torch.compile."""

from collections.abc import Callable

import torch


def compiled(function: Callable, *, full: Callable[..., bool]) -> Callable:
    """Compiles `function` for the calls where `full(*args)` is true; the others run eagerly.

    Every call with one structure and one set of shapes shares a graph. An epoch's last, smaller batch is
    one of dozens: a second graph would take a minute to compile and save a fraction of a second.
    """
    # dynamic=False: a second shape must never turn the graph of the first into a slower, general one.
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    return lambda *args: fast(*args) if full(*args) else function(*args)
