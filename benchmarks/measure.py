"""What all benchmarks share: the conditions of a measurement, times in turn, the table, the results file, images.

`python -m benchmarks.NAME [--json PATH]` runs a benchmark, which prints a table and writes
benchmarks/results/NAME-<cpu|cuda>.json. This module measures nothing by itself.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from numbers import Real
from pathlib import Path

from cil_func.runs import files

RESULTS = Path(__file__).parent / "results"


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the flags of every benchmark, --json and --commit; a benchmark adds its own.

    description: the benchmark's module docstring; --help shows its first line.
    """
    made = argparse.ArgumentParser(description=description.splitlines()[0], allow_abbrev=False)
    made.add_argument("--json", type=Path, metavar="PATH", help="results file; default benchmarks/results/")
    made.add_argument("--commit", default="", metavar="HASH", help="what is measured, where git can't tell")
    return made


def refuse_replacing(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *, changed_by: Sequence[str]
) -> None:
    """Ends the process with argparse's error if a results file would be replaced by one of other settings.

    changed_by: flags, as attributes of `options`, that change what is measured. With one of them --json has to name a
    file: the usual one in results/ is of the usual settings.
    """
    given = [name for name in changed_by if getattr(options, name) != parser.get_default(name)]
    if given and not options.json:
        flag = f"--{given[0].replace('_', '-')}"
        parser.error(f"{flag} measures something else than the record in benchmarks/results/ has; add --json PATH")


def device() -> str:
    """Returns the type of the device that a run takes by default: "cuda" where torch can use a GPU, else "cpu".

    Prints a warning on stderr if there is a GPU that torch can't use.
    """
    # late, here and below: they import torch, which the parent process of `run` doesn't need
    from cil_func.training import gpus

    if warning := gpus.passed_over():
        print(f"warning: {warning}", file=sys.stderr)
    return "cpu" if gpus.fault() else "cuda"


def cores() -> int:
    """Returns how many processor cores this process may use."""
    from cil_func.parallel import launch

    return launch.cores()


def conditions(device: str, *, commit: str = "") -> dict:
    """Returns what a measurement depends on besides the code, as {name: JSON-able value}.

    Call it at the start, since it has the load average.
    device: "cpu" or "cuda", which also ends the name of the results file. commit: what is measured; "": the commit that
    is checked out.
    """
    import torch

    processor = _processor()
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else processor,
        "processor": processor,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "python": platform.python_version(),
        "commit": commit or head(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def head() -> str:
    """Returns the commit that is checked out, marked "-dirty" if the code differs from it; "unknown" without git.

    Code: what is measured, Python files and configurations. Tables that a record has changed are none.
    """
    code = [":(top)*.py", ":(top)*.toml", ":(top)requirements.txt"]
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if _git("diff", "--name-only", "HEAD", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    """Returns what a git command prints in this repository."""
    where = RESULTS.parent
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=where).stdout.strip()


def write(name: str, figures: Mapping[str, Real], conditions: Mapping, json_path: Path | None = None) -> Path:
    """Writes {"name", "figures", "conditions"} to a file. Returns its path.

    name: of the benchmark. figures: {name: number}. conditions: from the function of this name.
    json_path: the file; None: results/NAME-<device>.json.
    Raises TypeError for a figure that is no number, ValueError for one that is not finite.
    """
    wrong = [key for key, value in figures.items() if isinstance(value, bool) or not isinstance(value, Real)]
    if wrong:
        raise TypeError(f"write: figure {wrong[0]!r} is {figures[wrong[0]]!r}; figures are numbers")
    path = json_path or RESULTS / f"{name}-{conditions['device']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"name": name, "figures": dict(figures), "conditions": dict(conditions)})
    return path


def paired(
    first: Callable[[], object], second: Callable[[], object], *, repeats: int, warmup: int = 1
) -> tuple[list[float], list[float]]:
    """Returns (seconds of each call of `first`, of each call of `second`); item i of both is from the same round.

    The functions are called in turn, so that a slow machine slows down both, and in the other order each round.
    repeats: how many calls of each count; warmup: how many come before them. A function that uses a GPU has to wait for
    it before it returns.
    """
    seconds = ([], [])
    for repeat in range(-warmup, repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            clock = time.perf_counter()
            (first, second)[which]()
            if repeat >= 0:
                seconds[which].append(time.perf_counter() - clock)
    return seconds


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns the median of the paired ratios first / second. Of the seconds (conventional, ours) it is a speedup."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def table(rows: Sequence[Sequence]) -> None:
    """Prints rows in aligned columns, names to the left and numbers to the right.

    rows: the first one is the heading; None is printed as "-".
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)


def write_images(folder: Path, *, classes: int, train: int, test: int, size: int, seed: int = 0) -> None:
    """Writes random images that can be learned, as folder/train/<class>/*.png and folder/test/<class>/*.png.

    classes: how many. Each class has a pattern of 4 x 4 colours, and its images are the pattern, shifted and with
    noise. train, test: how many images a class has in each. size: pixels of a side, a multiple of 4. seed: of the
    random numbers; the same one gives the same images.
    """
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for label in range(classes):
        pattern = np.kron(random.uniform(0, 255, (4, 4, 3)), np.ones((size // 4, size // 4, 1)))  # (H, W, 3)
        for split, count in (("train", train), ("test", test)):
            own = folder / split / f"class{label:03d}"
            own.mkdir(parents=True)
            for number in range(count):
                shifted = np.roll(pattern, tuple(random.integers(-2, 3, 2)), axis=(0, 1))
                noisy = shifted + random.normal(0, 64, shifted.shape)
                image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(own / f"{number:04d}.png", compress_level=1)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) >= 10 else f"{cell:.4g}"
    return str(cell)


def _processor() -> str:
    """Returns the processor's model as Linux names it; on other systems as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
