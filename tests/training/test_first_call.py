"""What a function raises when it is compiled is what it raises by itself."""

import pytest
import torch

from cil_func.errors import OwnCodeError
from cil_func.training import runners


def called(function):
    return runners.compiled(function, full=len)(torch.ones(2))


def refuses(x):
    if x.ndim:
        raise OwnCodeError("no 0-d tensor")
    return x


def fails(x):
    return x.sin() @ torch.ones(3)


def breaks(x):
    torch._dynamo.graph_break()
    return x.sin()


def fills(x):
    torch._dynamo.graph_break()
    raise MemoryError


@pytest.mark.parametrize(("function", "kind", "says"), [
    (refuses, OwnCodeError, "no 0-d tensor"), (fails, RuntimeError, "size mismatch|inconsistent|must match"),
    (breaks, torch._dynamo.exc.Unsupported, "graph_break"), (fills, torch._dynamo.exc.Unsupported, "graph_break"),
])  # fmt: skip
def test_the_functions_own_error_goes_out_and_else_that_of_the_compiler(function, kind, says):
    with pytest.raises(kind, match=says) as failure:
        called(function)
    assert failure.type is kind and not failure.value.__context__
