"""Which GPUs torch can use. Nothing here makes a GPU do anything, or takes memory on one."""

import os
from functools import cache

import torch


@cache
def fault() -> str:
    """Returns why torch can't compute on this process's GPU, in words that follow a comma; "" if it can."""
    if not torch.cuda.is_available():
        return "and torch finds no CUDA device here"
    major, minor = torch.cuda.get_device_capability()
    if not _has_kernels(torch.cuda.get_arch_list(), major, minor):
        name = torch.cuda.get_device_name()
        return f"and this torch has no kernels for {name} (compute capability {major}.{minor})"
    return ""


def _has_kernels(built_for: list[str], major: int, minor: int) -> bool:
    """Returns whether torch runs on a GPU of a compute capability. built_for: what it is built for, ["sm_90", ...].

    Machine code ("sm") runs on GPUs of its own major version from its minor one on; "compute" is translated for later
    ones. A build that says nothing is trusted.
    """
    have = 10 * major + minor
    for kind, _, digits in (each.partition("_") for each in built_for):
        wanted = int("".join(filter(str.isdecimal, digits)) or 0)
        if wanted <= have and (kind == "compute" or wanted // 10 == major):
            return True
    return not built_for


def visible() -> list[str]:
    """Returns the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [each.strip() for each in given.split(",")][:count] if given else [str(each) for each in range(count)]
