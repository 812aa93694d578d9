"""Are images in files loaded as fast as by a plain DataLoader, in flat memory? `python -m benchmarks.streaming CIFAR`.

CIFAR: a folder with train/CLASS/ and test/CLASS/. From it a folder of large JPEGs is made (`imagenet_like`), over which
both sides load epochs of windows of 224 x 224 pixels with the same number of workers. The plain side is torch's
DataLoader with torchvision's RandomResizedCrop (bicubic) and RandomHorizontalFlip, batches of uint8 tensors. Ours gives
the batches that a training gets. speedup_loading: plain seconds over ours, the median of pairs in turn.
images_per_second_*: of each side, and of ours with RandAugment on batches (device) and by timm in the workers (pil).
memory_mb_*: MB of this process and its workers, memory that they share counted once, over an epoch of all of CIFAR's
training files: the most in each tenth of it.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import imagenet_like, measure
from cil_func.data import batches, streamed
from cil_func.data.augmentation import augment
from cil_func.data.augmentation.augment import Augment
from cil_func.data.reading import file_table
from cil_func.data.reading.pixels import Rules

SIZE, SMALLEST, BATCH = 224, 0.08, 64
POLICY = "rand-m9-mstd0.5-inc1"


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("source", type=Path, metavar="CIFAR")
    parser.add_argument("--images", type=int, default=1000, help="large images in all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few small images, to see that it works")
    options = parser.parse_args(arguments)
    measure.refuse_replacing(parser, options, changed_by=("quick",))
    images, repeats, size = (16, 1, 16) if options.quick else (options.images, options.repeats, SIZE)
    conditions = measure.conditions("cpu", commit=options.commit) | {
        "images": images, "workers": options.workers, "repeats": repeats, "size": size, "batch": BATCH,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        sides = (20, 40) if options.quick else imagenet_like.SIDES
        files = large_files(options.source, Path(folder) / "large", images, sides=sides)
        figures = speeds(files, size, workers=options.workers, repeats=repeats)
    small = sorted(str(path) for path in (options.source / "train").glob("*/*"))
    figures |= memory(small, workers=options.workers) | {"memory_files": len(small)}
    measure.table([("figure", "value"), *figures.items()])
    print(measure.write("streaming", figures, conditions, options.json))
    return 0


def large_files(source: Path, out: Path, count: int, *, sides: tuple[int, int]) -> list[str]:
    """Makes about `count` large JPEGs in the folder `out`. Returns their paths."""
    classes = sum(path.is_dir() for path in (source / "train").iterdir())
    imagenet_like.write(source, out, train=max(1, count // classes), val=0, sides=sides)
    return sorted(str(path) for path in (out / "train").glob("*/*"))


def speeds(files: list[str], size: int, *, workers: int, repeats: int) -> dict[str, float]:
    """Measures epochs over the files. Returns {"speedup_loading", "images_per_second_*"}."""
    images = ours(files, size, workers)
    window = augment.device(window=SMALLEST, flip=True)
    theirs, mine = measure.paired(lambda: plain(files, size, workers), lambda: epoch(images, window), repeats=repeats)
    found = {"speedup_loading": measure.ratio(theirs, mine)}
    rate = lambda seconds: len(files) / statistics.median(seconds)  # noqa: E731
    found |= {"images_per_second_plain": rate(theirs), "images_per_second_ours": rate(mine)}
    makers: dict[str, Callable[..., Augment]] = {"device": augment.device, "pil": augment.pil}
    for name, make in makers.items():
        recipe = make(window=SMALLEST, flip=True, auto_augment=POLICY)
        taken = [epoch(images, recipe) for _ in range(max(1, repeats // 2))]
        found[f"images_per_second_randaugment_{name}"] = rate(taken)
    return found


def ours(files: list[str], size: int, workers: int) -> streamed.Streamed:
    """Returns the files as images of size x size pixels."""
    table = file_table.table(files, size=(size, size), resizes=True, rules=Rules(upright=False))
    return streamed.Streamed(table, workers)


def epoch(
    images: streamed.Streamed, recipe: Augment | None, at_chunk: Callable[[int], object] = lambda done: None
) -> float:
    """Loads all images once, in random order. Returns the seconds.

    at_chunk: called after each chunk with the number of images so far.
    """
    rows, clock, done = torch.arange(len(images)), time.perf_counter(), 0
    for chunk in batches.epoch_chunks(
        images, rows, rows, batch_size=BATCH, key=0, augment=recipe, device=torch.device("cpu")
    ):
        done += len(chunk.batch.labels)
        at_chunk(done)
    return time.perf_counter() - clock


class Files(Dataset):
    """The plain side's images: a file is opened, a random window cut out, mirrored or not, and made a tensor."""

    def __init__(self, files: list[str], size: int) -> None:
        self.files = files
        crop = v2.RandomResizedCrop(size, scale=(SMALLEST, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        self.change = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[row]) as image:
            return self.change(image.convert("RGB")), row


def plain(files: list[str], size: int, workers: int) -> float:
    """Loads all images once, in random order, by torch's DataLoader. Returns the seconds."""
    loader = DataLoader(Files(files, size), batch_size=BATCH, shuffle=True, num_workers=workers)
    clock = time.perf_counter()
    seen = sum(len(labels) for _, labels in loader)
    if seen != len(files):
        raise RuntimeError(f"streaming: {seen} of {len(files)} images were loaded")
    return time.perf_counter() - clock


def memory(files: list[str], *, workers: int) -> dict[str, float]:
    """Measures the memory of an epoch over small files. Returns {"memory_mb_10", ..., "memory_mb_100"}.

    The number is that of the percent of the images that are loaded by then; the figure is the most in that tenth.
    """
    with Image.open(files[0]) as image:
        images, most = ours(files, image.size[0], workers), dict.fromkeys(range(10, 101, 10), 0.0)

    def note(done: int) -> None:
        tenth = min(100, 10 * (1 + (10 * done - 1) // len(files)))
        most[tenth] = max(most[tenth], megabytes())

    epoch(images, None, at_chunk=note)
    return {f"memory_mb_{tenth}": used for tenth, used in most.items() if used}


def megabytes() -> float:
    """Returns the memory of this process and its children in MB, shared pages divided by the number of sharers."""
    own = Path("/proc/self/task")
    children = [child for task in own.iterdir() for child in (task / "children").read_text().split()]
    total = 0
    for process in ("self", *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
