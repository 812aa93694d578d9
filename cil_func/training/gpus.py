"""Which GPUs torch can use. Nothing here makes a GPU do anything, or takes memory on one."""

import os
from collections.abc import Iterable

import torch


def fault(numbers: Iterable[int] = (0,)) -> str:
    """Returns why torch can't compute on one of this machine's GPUs, in words; "" if it can on all of them.

    numbers: of the GPUs, as torch counts them. One that isn't there is no fault, unless there is none at all.
    """
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    for number in numbers:
        if number < torch.cuda.device_count() and not _is_usable(number):
            major, minor = torch.cuda.get_device_capability(number)
            name = torch.cuda.get_device_name(number)
            return f"this torch has no kernels for {name} (compute capability {major}.{minor})"
    return ""


def passed_over(numbers: Iterable[int] = (0,)) -> str:
    """Returns a warning, one line, if the CPU computes though there is a GPU; "" if there is none, or torch can use it.

    numbers: as for `fault`.
    """
    if not torch.cuda.is_available() or not (why := fault(numbers)):
        return ""
    others = ",".join(visible())
    way_out = f"CUDA_VISIBLE_DEVICES={others} leaves it out" if others else "another build of torch may have some"
    return f"no GPU is used, since {why}; {way_out}"


def visible() -> list[str]:
    """Returns the GPUs that this process may use, and torch can use, each as CUDA_VISIBLE_DEVICES names it."""
    if not torch.cuda.is_available():  # a driver may count GPUs that torch can't begin with
        return []
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [each.strip() for each in given.split(",")][:count] if given else [str(each) for each in range(count)]
    return [name for number, name in enumerate(named) if _is_usable(number)]


def _is_usable(number: int) -> bool:
    return _has_kernels(torch.cuda.get_arch_list(), *torch.cuda.get_device_capability(number))


def _has_kernels(built_for: list[str], major: int, minor: int) -> bool:
    """Returns whether torch runs on a GPU of a compute capability. built_for: what it is built for, ["sm_90", ...].

    Machine code ("sm") runs on GPUs of its own major version from its minor one on; "compute" is translated for later
    ones. A build that says nothing of these is trusted, as that for AMD's GPUs ("gfx90a").
    """
    have, fits = 10 * major + minor, []
    for kind, _, digits in (each.partition("_") for each in built_for):
        wanted = int("".join(filter(str.isdecimal, digits)) or 0)
        if kind in ("sm", "compute"):
            fits.append(wanted <= have and (kind == "compute" or wanted // 10 == major))
    return any(fits) or not fits
