"""A classifier learns new classes after its training: what that costs and loses. `python -m benchmarks.months_later`.

By the commands that people use, each in a process of its own: a run on the first classes; two times --extend by some
more (`train.py`); what the old classes lost by each (`compare`); the accuracy of `predict` on images that no run had;
what `calibrate` and `predict --reject` do before and after, with the classes that are not yet learned as unknown ones.

    python -m benchmarks.months_later                           digits: 6 classes, then 2, then 2
    python -m benchmarks.months_later --images FOLDER --name NAME --first 40 --more 5 --extend-epochs 10

Half of the test images are the runs' own test images; the other half, of which runs know nothing, is for `predict` and
`calibrate`, half of it each. Writes results/months_later-NAME-cpu.json, NAME being "digits" or --name.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks import measure

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "run.compile=false", "data.image_size=8", "augment.crop_padding=1", "augment.flip=false", "augment.brightness=0",
    "model.backbone=resnet20", "data.initial_increment=2", "data.increment=2", "memory.fixed_per_class=10",
    "optim.epochs=30", "optim.batch_size=32", "optim.learning_rate=0.05",
)  # fmt: skip
STEPS = ("run", "run-2", "run-3")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"settings": list(options.set)}
    conditions |= {"first": options.first, "more": options.more, "extend_epochs": options.extend_epochs}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="months-later-") as scratch:
        folder = options.out or Path(scratch)
        images = options.images or written_digits(folder / "digits")
        parts = cut(images, folder / "cut", [options.first, options.more, options.more])
        for number, name in enumerate(STEPS):
            figures |= train(folder, number, parts, options) | after(folder / name, parts, number)
            if number:
                figures |= compared(folder / STEPS[number - 1], folder / name)
    measure.table([("figure", "value"), *figures.items()])
    path = options.json or measure.RESULTS / f"months_later-{options.name}-cpu.json"
    print(measure.write("months_later", figures, conditions, path))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="with train/ and test/; default: the digits")
    parser.add_argument("--name", default="digits", help="in the name of the results file")
    parser.add_argument("--first", type=int, default=6, help="classes of the first run")
    parser.add_argument("--more", type=int, default=2, help="classes of each extension")
    parser.add_argument("--set", action="append", metavar="TABLE.KEY=VALUE", help="of the first run, over folder.toml")
    parser.add_argument("--extend-epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keeps the runs; called again it goes on with them")
    options = parser.parse_args(arguments)
    if options.name == parser.get_default("name"):
        changes = ("images", "first", "more", "set", "extend_epochs")
        measure.refuse_replacing(parser, options, changed_by=changes)
    options.set = options.set or list(SETTINGS)
    return options


def written_digits(folder: Path) -> Path:
    """Writes scikit-learn's digits as folder/{train,test}/<digit>/<number>.png, every third one in test/."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    for number, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        path = folder / ("test" if number % 3 == 0 else "train") / f"digit-{label}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype("uint8")).save(path)
    return folder


def cut(images: Path, folder: Path, sizes: list[int]) -> list[Path]:
    """Links images into folders for the runs, a part of the classes each. Returns them, in order.

    images: with train/<class>/ and test/<class>/. sizes: how many classes each part gets, sorted by name. Each part has
    train/ and test/ as a run wants them, and unseen/<class>/ and fit/<class>/, a quarter of the test images each.
    """
    names = sorted(path.name for path in (images / "train").iterdir() if path.is_dir())
    parts = []
    for number in range(len(sizes)):
        part, own = folder / str(number), names[sum(sizes[:number]) : sum(sizes[: number + 1])]
        parts.append(part)
        for name in own if not part.exists() else ():
            link(part / "train" / name, sorted((images / "train" / name).iterdir()))
            files = sorted((images / "test" / name).iterdir())
            link(part / "test" / name, files[::2])
            link(part / "unseen" / name, files[1::4])
            link(part / "fit" / name, files[3::4])
    return parts


def link(folder: Path, files: list[Path]) -> None:
    """Makes a folder with a symbolic link to each of some files."""
    folder.mkdir(parents=True)
    for path in files:
        (folder / path.name).symlink_to(path.resolve())


def command(*words: object, expected: tuple[int, ...] = (0,)) -> str:
    """Runs a command of this package in a process of one thread. Returns what it printed.

    Raises RuntimeError if its exit status is none of `expected`.
    """
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode not in expected:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def train(folder: Path, number: int, parts: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """Trains run `number`, the first one or an extension of the one before. Returns its figures."""
    name = STEPS[number]
    settings = [f"data.path={parts[number]}"]
    if number:
        settings.append(f"optim.epochs={options.extend_epochs}")
        words = ["--extend", folder / STEPS[number - 1]]
    else:
        settings += ["run.threads=1", *options.set]
        words = ["--config", "folder.toml"]
    clock = time.perf_counter()
    command("train.py", *words, *(word for each in settings for word in ("--set", each)), "--out", folder / name)
    results = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    kept = list((folder / name / "memory").rglob("*.png"))
    row = results["phases"][-1]
    return {
        f"{name}_seconds": time.perf_counter() - clock,
        f"{name}_classes": row["classes_seen"],
        f"{name}_claimed": results["last_accuracy"],
        f"{name}_new": row["new_top1"],
        **({f"{name}_old": row["old_top1"]} if row["old_top1"] is not None else {}),
        f"{name}_memory_images": len(kept),
        f"{name}_memory_bytes": sum(path.stat().st_size for path in kept),
    }


def after(run: Path, parts: list[Path], number: int) -> dict[str, float]:
    """Returns what predict and calibrate say about a run of the parts up to `number`; later parts are unknown."""
    figures: dict[str, float] = {}
    for flags, which in (((), "unseen"), (("--flips",), "unseen_flips")):
        unseen = [part / "unseen" for part in parts[: number + 1]]
        lines = command("-m", "cil_func", "predict", run, *unseen, "--json", *flags).splitlines()
        right = [Path(each["path"]).parent.name == each["class"] for each in map(json.loads, lines)]
        figures |= {f"{run.name}_{which}": 100 * sum(right) / len(right), f"{run.name}_unseen_images": len(right)}
    with tempfile.TemporaryDirectory(prefix="fit-") as scratch:
        for part in parts:
            for path in (part / "fit").iterdir():
                (Path(scratch) / path.name).symlink_to(path.resolve())
        command("-m", "cil_func", "calibrate", run, scratch)
        figures |= {f"{run.name}_{name}": value for name, value in told_apart(run, scratch).items()}
    from cil_func.deploy import predictor

    report = predictor.load(run).calibration.report
    figures |= {f"{run.name}_ece_{when}": 100 * report[f"ece_{when}"] for when in ("before", "after")}
    figures |= {f"{run.name}_wrongly_unknown_{rule}": 100 * share for rule, share in report["false_rejection"].items()}
    detected = {rule: share for rule, share in report["detection"].items() if share is not None}
    return figures | {f"{run.name}_found_unknown_{rule}": 100 * share for rule, share in detected.items()}


def told_apart(run: Path, folder: str) -> dict[str, float]:
    """Returns how well known classes are told from unknown ones, as areas under the ROC curve in percent.

    folder: of the images, which the run was calibrated on. auroc_RULE: by each rule of --reject-by, the distance being
    that to the nearest class mean. auroc_library_NAME: by pytorch-ood's detectors of the same outputs, where that
    package is installed; Mahalanobis and KNN are fitted on every second image of each class, and all are measured on
    the others.
    """
    from sklearn.metrics import roc_auc_score

    from cil_func import metrics
    from cil_func.deploy import calibrate, calibration, predictor

    model = predictor.load(run)
    outputs = calibrate.read(model, folder)
    if not (outputs.labels < 0).any():
        return {}
    known = (outputs.labels >= 0).nonzero()[:, 0]
    fit, rest = outputs.at(known[::2]), outputs.at((outputs.labels < 0).logical_or(_odd(known, len(outputs.labels))))
    means = model.saved.means
    if means is None:
        means = metrics.class_means(fit.features, fit.labels, len(model.class_names))
    probabilities = model.probabilities(model.scorer.judged(rest.logits, rest.features))
    strangeness = calibration.strangeness_of(rest.logits, probabilities)
    strangeness["nearest"] = -metrics.nme_scores(rest.features, means).amax(1)
    found = {f"auroc_{rule}": values for rule, values in strangeness.items()}
    if find_spec("pytorch_ood"):
        from pytorch_ood import detector

        found["auroc_library_softmax"] = detector.MaxSoftmax.score(rest.logits)
        found["auroc_library_energy"] = detector.EnergyBased.score(rest.logits)
        for name, made in (("mahalanobis", detector.Mahalanobis(None)), ("knn", detector.KNN(None, k=5))):
            found[f"auroc_library_{name}"] = made.fit_features(fit.features, fit.labels).predict_features(rest.features)
    unknown = (rest.labels < 0).numpy()
    return {name: 100 * float(roc_auc_score(unknown, values.numpy())) for name, values in found.items()}


def _odd(rows, count: int):
    """Returns a mask (count,) of every second one of some row numbers, from the second on."""
    import torch

    return torch.zeros(count, dtype=torch.bool).index_fill(0, rows[1::2], True)


def compared(old: Path, new: Path) -> dict[str, float]:
    """Returns what `compare` says of the kept classes: accuracies, flips, and how many went to new classes."""
    kept = json.loads(command("-m", "cil_func", "compare", old, new, "--json", expected=(0, 1)))["kept"]
    names = ("before", "after", "negative_flips", "positive_flips", "lost_to_new", "images")
    return {f"{new.name}_kept_{name}": kept[name] for name in names}


def markdown(figures: dict[str, float]) -> str:
    """Returns the table of a record's figures as Markdown, a row for each run; benchmarks/README.md has it."""
    titles = ("classes", "accuracy", "on images that no run had", "old classes", "were right, are wrong", "exemplars",
              "seconds")  # fmt: skip
    rows = [titles, ("---",) * len(titles)]
    for name in STEPS:
        of = {key.removeprefix(f"{name}_"): value for key, value in figures.items() if key.startswith(f"{name}_")}
        kept = ("-", "-")
        if "kept_images" in of:
            flips = f"{of['kept_negative_flips']:.0f} of {of['kept_images']:.0f}"
            kept = (f"{of['kept_before']:.1f} -> {of['kept_after']:.1f}", flips)
        rows.append((
            f"{of['classes']:.0f}", f"{of['claimed']:.1f}", f"{of['unseen']:.1f}", *kept,
            f"{of['memory_images']:.0f}, {of['memory_bytes'] / 1000:.0f} KB", f"{of['seconds']:.0f}",
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
