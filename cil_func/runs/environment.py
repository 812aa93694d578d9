"""Finds out what this machine has: what "auto" means on it, and the versions that results depend on."""

import platform
from importlib import metadata

import torch

from cil_func.config import Config
from cil_func.errors import ConfigError
from cil_func.parallel.launch import Launch, gpus_of
from cil_func.training import gpus, runners


def resolve(config: Config, launch: Launch, *, way_out: str = '"auto" or "cpu" fits') -> Config:
    """Returns the configuration with run.device and run.precision set to what "auto" means on this machine.

    launch: the place of this process; the GPUs count that the processes of its machine take.
    Values other than "auto" stay. Raises ConfigError for device "cuda" where torch can't use these; way_out: what its
    line says to do.
    """
    device, precision, numbers = config.run.device, config.run.precision, gpus_of(launch)
    fault = gpus.fault(numbers) if device != "cpu" else ""
    if device == "cuda" and fault:
        raise ConfigError(f'run.device: "cuda", and {fault}; {way_out}')
    if device == "auto":
        device = "cpu" if fault else "cuda"
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    return config.model_copy(
        update={"run": config.run.model_copy(update={"device": device, "precision": precision})}
    )


def unused_gpu(config: Config, launch: Launch) -> str:
    """Returns a warning, one line, if device "auto" means the CPU though this machine has a GPU; else "".

    launch: as for `resolve`.
    """
    return gpus.passed_over(gpus_of(launch)) if config.run.device == "auto" else ""


def environment(device: torch.device, precision: str, world_size: int) -> dict:
    """Returns what results depend on besides the configuration: {name: version, device, number of threads, ...}.

    device: the training's. precision: the resolved run.precision. world_size: the number of processes.
    The "environment" of results.json.
    """
    cuda = device.type == "cuda"
    packages = ("torch", "torchvision", "timm", "continuum", "numpy", "pillow")
    return {
        **{package: _version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "precision": precision,
        **runners.float32_precision(device.type),
    }


def _version(package: str) -> str:
    """Returns a package's version; "unknown" for one that is a bare folder, without the metadata of an installation."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _has_bfloat16(device: str) -> bool:
    """Returns whether `precision = "auto"` means bfloat16 on a device, "cpu" or "cuda".

    It does on GPUs from compute capability 8.0 and on CPUs with AVX512-BF16 or AMX.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
