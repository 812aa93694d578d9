"""What this machine has: what "auto" means on it, and the versions that results depend on."""

import platform
from importlib.metadata import version

import torch

from cil_func.config import Config
from cil_func.errors import ConfigError
from cil_func.training import runners


def resolve(config: Config) -> Config:
    """The configuration with "auto" replaced by what this machine has; ConfigError for what it lacks."""
    device, precision = config.run.device, config.run.precision
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('run.device: "cuda", and torch finds no CUDA device here; "auto" or "cpu" fits')
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    return config.model_copy(
        update={"run": config.run.model_copy(update={"device": device, "precision": precision})}
    )


def environment(device: torch.device, precision: str, world_size: int) -> dict:
    """What the results depend on besides the configuration: versions, device, precision, threads."""
    cuda = device.type == "cuda"
    packages = ("torch", "torchvision", "timm", "continuum", "numpy", "pillow")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "precision": precision,
        **runners.float32_precision(device.type),
    }


def _has_bfloat16(device: str) -> bool:
    """The fixed table of `precision = "auto"`: GPUs from compute capability 8.0, CPUs with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
