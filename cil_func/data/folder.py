"""Folders of image files -> uint8 arrays. What people get wrong in such folders is refused by name."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cil_func.errors import DataError

_CHUNK = 128  # images a job: few enough to share evenly, enough that 1.3 M images make no 1.3 M futures

# Pillow decodes outside the GIL but opens under it. Measured on 2 cores, PNG images/s with 1, 2, 8 threads:
# 32x32 10,700, 5,600, 4,400; 96x96 2,800, 4,200, 2,900; 256x256 340, 640, 570.
_THREADED_PIXELS = 96 * 96

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]


def read(path: str, *, image_size: int = 0, test_names: Sequence[str] = ("test", "val")) -> Arrays:
    """Reads `path/train/<class>/*` and `path/test/<class>/*` (the first of `test_names` that exists).

    image_size: 0 needs all images of one size; s brings each to s x s, see `resize`.
    Returns (train images uint8 (N, H, W, 3), train targets int64 (N,), test images, test targets, class
    names); a class index is the position in the alphabetical order of the names, rows are sorted by
    class, then by path. Dot-names and files that are no images by extension are ignored.
    Raises DataError, one line: whatever is missing, empty, broken, of two sizes or too large for memory.
    """
    folders = _split_folders(path, test_names)
    class_names = _class_names(folders)
    files = [_list_images(folder, class_names) for folder in folders]
    images = _decode_all([[file for file, _ in split] for split in files], image_size)
    targets = [np.array([target for _, target in split], dtype=np.int64) for split in files]
    return images[0], targets[0], images[1], targets[1], class_names


def resize(image: Image.Image, size: int) -> Image.Image:
    """Brings the shorter side to `size` pixels (bicubic, antialiased) and crops the centre, size x size.

    An image that has this size already is returned as it is. Sizes and offsets are rounded as
    torchvision's Resize and CenterCrop do.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    short = min(width, height)
    width, height = size * width // short, size * height // short
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _split_folders(path: str, test_names: Sequence[str]) -> tuple[Path, Path]:
    """The folders of training and of test images."""
    if not path:
        raise DataError("data.path is empty; set it to a folder that holds train/ and test/ (or val/)")
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "doesn't exist"
        raise DataError(f"data.path {root} {what}; give a folder that holds train/ and {test_names[0]}/")
    held = ", ".join(_folder_names(root)[:5]) or "no folders"
    if not (root / "train").is_dir():
        raise DataError(f"{root} has no train/ folder (it holds {held}); put the classes' folders in train/")
    for name in test_names:
        if (root / name).is_dir():
            return root / "train", root / name
    wanted = " or ".join(f"{name}/" for name in test_names)
    raise DataError(f"{root} has no {wanted} folder (it holds {held}); put the test images there, by class")


def _folder_names(folder: Path) -> list[str]:
    """Names of the folders (or links to folders) in it, sorted, without dot-names."""
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _class_names(folders: tuple[Path, Path]) -> tuple[str, ...]:
    """The class names, which have to be the same in both folders, and at least two."""
    train_names, test_names = (_folder_names(folder) for folder in folders)
    if not train_names:
        raise DataError(f"{folders[0]} has no class folders; put the images of each class in a folder there")
    for here, there in ((0, 1), (1, 0)):
        alone = sorted(set((train_names, test_names)[here]) - set((train_names, test_names)[there]))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise DataError(
                f"class {alone[0]!r}{more} is in {folders[here]} but not in {folders[there]}; give it both"
            )
    if len(train_names) == 1:
        raise DataError(f"{folders[0]} has a single class, {train_names[0]!r}; give two or more")
    return tuple(train_names)


def _list_images(folder: Path, class_names: tuple[str, ...]) -> list[tuple[str, int]]:
    """(file, class index) of each image, sorted by class and path; no class may be empty."""
    from torchvision.datasets.folder import is_image_file, make_dataset  # late: 2 s

    def wanted(file: str) -> bool:
        hidden = any(part.startswith(".") for part in Path(file).relative_to(folder).parts)
        return is_image_file(file) and not hidden

    indices = {name: index for index, name in enumerate(class_names)}
    files = make_dataset(folder, indices, is_valid_file=wanted, allow_empty=True)
    empty = [class_names[index] for index in sorted(set(indices.values()) - {index for _, index in files})]
    if empty:
        more = f" (and {len(empty) - 1} more classes)" if len(empty) > 1 else ""
        raise DataError(f"class folder {folder / empty[0]} holds no images{more}; add some or remove it")
    return files


def _decode_all(splits: list[list[str]], image_size: int) -> list[np.ndarray]:
    """Decodes all files into one array a split, on a few threads where that helps."""
    first = splits[0][0]
    first_height, first_width, _ = _decode(first, 0).shape
    height, width = (image_size, image_size) if image_size else (first_height, first_width)
    _check_memory(sum(map(len, splits)), height, width)
    arrays = [np.empty((len(files), height, width, 3), dtype=np.uint8) for files in splits]
    failed = threading.Event()  # jobs that wait end at once when one has failed

    def fill(files: list[str], out: np.ndarray) -> None:
        for file, slot in zip(files, out, strict=True):
            if failed.is_set():
                return
            try:
                pixels = _decode(file, image_size)
                if pixels.shape != slot.shape:
                    raise DataError(
                        f"images differ in size: {first} is {width}x{height}, {file} is "
                        f"{pixels.shape[1]}x{pixels.shape[0]}; set data.image_size to bring all to one size"
                    )
            except BaseException:
                failed.set()
                raise
            slot[:] = pixels

    threads = min(8, os.cpu_count() or 1) if first_height * first_width >= _THREADED_PIXELS else 1
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        jobs = [
            pool.submit(fill, files[start : start + _CHUNK], out[start : start + _CHUNK])
            for files, out in zip(splits, arrays, strict=True)
            for start in range(0, len(files), _CHUNK)
        ]
        for job in jobs:
            job.result()
    return arrays


def _decode(file: str, image_size: int) -> np.ndarray:
    """One file as uint8 (H, W, 3); DataError with the file's name if it can't be decoded to its end."""
    try:
        with Image.open(file) as image:
            image.load()
            rgb = _to_rgb(image)
        return np.asarray(resize(rgb, image_size) if image_size else rgb)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        empty = os.path.exists(file) and os.path.getsize(file) == 0
        lines = str(error).splitlines()
        reason = "the file is empty" if empty else lines[0] if lines else type(error).__name__
        raise DataError(f"broken image {file}: {reason}; replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. 16-bit grey is scaled, for Pillow's own conversion clips it: nearly all would be white."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        grey = np.asarray(image).astype(np.uint32)  # 0..65535
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, 32 bits a pixel, has no known range; save it with 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_memory(count: int, height: int, width: int) -> None:
    """Refuses a set that wouldn't fit, before an hour of decoding."""
    needed, available = count * height * width * 3, _available_bytes()
    if needed > available:
        raise DataError(
            f"{count} images of {width}x{height} need {needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are available; set a smaller data.image_size or use fewer images"
        )


def _available_bytes() -> int:
    """Memory that can still be had: what Linux estimates, without which all the machine has, in bytes.

    SC_AVPHYS_PAGES won't do: it leaves out the page cache, which reading the images has just filled.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # a container's limit (cgroup 2); "max" is none
        return min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return available
