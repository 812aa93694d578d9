"""Does a change of the code keep a run's numbers? Digits by several methods in two checkouts, compared bit by bit.

    git worktree add ../before COMMIT
    python -m benchmarks.same_bits ../before [--methods wa,lwf] [--compile]

Trains each method here and in the other checkout, in processes of one thread, and compares all tensors of
model.safetensors, and all numbers of the phases in results.json except seconds. Writes same_bits-cpu.json, with
--compile same_bits_compiled-cpu.json; exit status 1 if something differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import measure

METHODS = "wa,icarl,replay,lwf,finetune,joint"
ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--methods", default=METHODS, help="separated by commas")
    parser.add_argument("--epochs", type=int, default=3, help="of each phase")
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods.split(","):
            runs = [train(root, Path(folder) / name / method, method, options)
                    for name, root in (("here", ROOT), ("other", options.other.resolve()))]  # fmt: skip
            figures |= {f"{method}_{what}": same for what, same in compare(*runs).items()}
            print(method, {name: bool(same) for name, same in figures.items() if name.startswith(method)}, flush=True)
    conditions = measure.conditions("cpu", commit=options.commit)
    conditions |= {"other_commit": commit(options.other), "epochs": options.epochs}
    name = "same_bits_compiled" if options.compile else "same_bits"
    print(measure.write(name, figures, conditions, options.json))
    return 0 if all(figures.values()) else 1


def train(root: Path, directory: Path, method: str, options) -> Path:
    """Trains a method by the code in the checkout `root`. Returns the run directory, `directory`.

    options: the flags. Raises CalledProcessError if the training fails.
    """
    settings = (
        f"method.name={method}", f"optim.epochs={options.epochs}", "run.precision=float32", "run.device=cpu",
        "run.threads=1", f"run.compile={str(options.compile).lower()}",
    )  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    subprocess.run(
        [sys.executable, "train.py", "--out", str(directory), *words],
        cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return directory


def compare(here: Path, other: Path) -> dict[str, int]:
    """Compares two run directories. Returns {"weights": 1 or 0, "results": 1 or 0}; 1: they are equal.

    Weights are equal if all tensors have the same bits; results if all numbers of the phases are equal that both runs
    have, but the seconds.
    """
    tensors = [load_file(run / "model.safetensors") for run in (here, other)]
    weights = tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(tensor.flatten().view(torch.uint8), tensors[1][name].flatten().view(torch.uint8))
        for name, tensor in tensors[0].items()
    )
    phases = [json.loads((run / "results.json").read_text())["phases"] for run in (here, other)]
    shared = [(mine.keys() & theirs.keys()) - {"seconds"} for mine, theirs in zip(*phases, strict=False)]
    equal = len(phases[0]) == len(phases[1]) and all(
        mine[key] == theirs[key] for mine, theirs, keys in zip(*phases, shared, strict=True) for key in keys
    )
    return {"weights": int(weights), "results": int(equal)}


def commit(checkout: Path) -> str:
    """Returns the hash of a checkout's commit."""
    words = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
