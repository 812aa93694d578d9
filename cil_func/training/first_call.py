"""The first call of a compiled function, whose failure must show what the function itself raises."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


def first_call(compiled: Callable, function: Callable, args: tuple) -> Any:
    """Returns compiled(*args), which compiles it.

    function: what was compiled; it is pure. Where it raises an error, torch.compile raises one of its own, which says
    nothing of where and why. So the function is then called once as it is.
    Raises what that call raises; else what torch.compile raised, also if the memory is too small for that call.
    """
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException  # late: it costs a second

    try:
        return compiled(*args)
    except BackendCompilerFailed:  # it was traced to the end
        raise
    except TorchDynamoException as error:
        failure = error
    with suppress(MemoryError, torch.OutOfMemoryError):
        function(*args)
    raise failure
