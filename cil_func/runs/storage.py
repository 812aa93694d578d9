"""Where a run's images are, in memory or in their files, and how many processes decode them."""

from cil_func.config import Config
from cil_func.data import sources
from cil_func.data.reading.file_table import FileTable, Joined, Pixels
from cil_func.data.reading.packed import PackedFile
from cil_func.parallel.launch import Launch, cores

_MOST_WORKERS = {"cuda": 16, "cpu": 2}  # by the device that trains: a CPU has no cores to spare


def wanted(config: Config) -> str:
    """Returns data.storage: "auto" becomes "streaming" with augment.window, which is cut out of the whole image."""
    storage = config.data.storage
    return "streaming" if storage == "auto" and config.augment.window else storage


def resolved(config: Config, data: sources.Dataset) -> Config:
    """Returns the configuration with data.storage = "auto" replaced by where the images of `data` are."""
    return config.model_copy(update={"data": config.data.model_copy(update={"storage": _of(data.train_images)})})


def _of(pixels: Pixels) -> str:
    """Returns where images are, as data.storage says it; of two sets joined, where the second one is."""
    if isinstance(pixels, Joined):
        return _of(pixels.second)
    return {FileTable: "streaming", PackedFile: "packed"}.get(type(pixels), "resident")


def num_workers(config: Config, launch: Launch | None = None) -> int:
    """Returns data.workers: how many processes decode images for each process of the run.

    "auto" means the cores that this process may use, shared by the run's processes on this machine, at most 16; at most
    2 if the run trains on the CPU. launch: of this process; None: it is alone.
    """
    if config.data.workers != "auto":
        return config.data.workers
    return max(1, min(_MOST_WORKERS[config.run.device], cores() // (launch.local_size if launch else 1)))
