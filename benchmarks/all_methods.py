"""How good is each method, by equal settings? All built-in methods as ordinary runs, in one table.

    python -m benchmarks.all_methods digits [--methods wa,replay] [--seeds 0,1,2] [--jobs 2] [--runs FOLDER]
    python -m benchmarks.all_methods cifar-short --set data.name=image_folder --set data.path=FOLDER
    python -m benchmarks.all_methods digits --draw benchmarks/results/digits.svg

`digits` is the default configuration. `cifar-short` is CIFAR-100, 50 classes and then 10 a phase, by the preset
`cifar-survey` with 10 epochs a phase and ResNet-8: for all methods equal settings, which are nobody's best ones.
PODNet, which needs two blocks a stage, is left out.

Trains each method and seed by `python -m cil_func sweep FOLDER`, --jobs at a time, in processes of one thread. Called
again it goes on: finished runs are read, a stopped one continues from its checkpoint. After each seed it writes
results/NAME-cpu.json: all finished runs of FOLDER, those of the same settings that the file had, and each method's
means over its seeds. --draw trains nothing: it draws the README's figure from that file.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.record import portable
from cil_func import methods
from cil_func.report.axes import BLUE, GREEN, GREY, ORANGE, new_figure, svg
from cil_func.runs import files
from cil_func.studies import sweep

STUDIES = {  # name: what its sweep gets; its seeds; the methods that can't be trained so
    "digits": ((), "0,1,2", ()),
    "cifar-short": (
        (
            "--config", "cifar-survey", "--set", "model.backbone=resnet8", "--set", "optim.epochs=10",
            "--set", "optim.first_phase.epochs=10", "--set", "optim.schedule=cosine", "--set", "run.compile=true",
            "--set", "run.precision=float32",
        ),
        "0",
        ("podnet",),
    ),
}  # fmt: skip
SUMMARY = {"average": "average_incremental_accuracy", "last": "last_accuracy", "forgetting": "forgetting"}
PHASES = ("top1", "top1_before_align", "nme_top1", "gamma", "new_share", "new_share_before_align")
DRAWN = {  # label, colour, marker, line
    "joint": ("joint: all images of all classes", GREY, "", "--"),
    "wa": ("wa: weight aligning", BLUE, "o", "-"),
    "replay": ("replay: the exemplars alone", ORANGE, "s", "-"),
    "finetune": ("finetune: no exemplars", GREEN, "^", "-"),
}
ORIGIN = ("commit", "processor")  # of a run: by another version, or on another machine, its numbers differ
HEADING = ("method", "seeds", "average incremental accuracy", "last accuracy", "forgetting")


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--methods", help="separated by commas; default: all that can be trained so")
    parser.add_argument("--seeds", help="separated by commas; default: 0,1,2, and 0 of cifar-short")
    parser.add_argument("--jobs", default="1", help="processes at a time")
    parser.add_argument("--runs", type=Path, help="folder of the run directories; default: runs/NAME-methods")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="of every run")
    parser.add_argument("--draw", type=Path, metavar="SVG", help="draws the figure of the record, trains nothing")
    options = parser.parse_args(arguments)
    images = ("data.name=", "data.path=") if options.name != "digits" else ()
    only_images = all(each.startswith(images) for each in options.set)
    measure.refuse_replacing(parser, options, changed_by=() if only_images else ("set",))
    record_path = options.json or measure.RESULTS / f"{options.name}-cpu.json"
    folder = options.runs or Path(f"runs/{options.name}-methods")
    if options.draw:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        options.draw.write_bytes(draw(record))
        return 0
    conditions = measure.conditions("cpu", commit=options.commit) | {"threads": 1}
    words, seeds, without = STUDIES[options.name]
    names = options.methods or ",".join(name for name in methods.TABLE if name not in without)
    settings = ("run.threads=1", "run.device=cpu", *options.set)
    words += tuple(word for setting in settings for word in ("--set", setting))
    words = (str(folder), "--grid", f"method.name={names}", "--jobs", options.jobs, *words)
    # All methods of one seed first: a table that is cut short compares methods.
    for seed in (options.seeds or seeds).split(","):
        status = sweep.main([*words, "--seeds", seed])
        if found := read(folder):
            write(found, conditions, record_path)
        if status:
            return status
    print(markdown(json.loads(record_path.read_text(encoding="utf-8"))["figures"]))
    print(record_path)
    return 0


def read(folder: Path) -> list[dict]:
    """Returns the results.json of each finished run below a folder, by method in the order of the package, by seed."""
    found = []
    for path in folder.glob("*/status.json"):
        if json.loads(path.read_text(encoding="utf-8"))["state"] == "finished":
            found.append(json.loads((path.parent / "results.json").read_text(encoding="utf-8")))
    return sorted(found, key=_key)


def write(found: Sequence[dict], conditions: dict, path: Path) -> None:
    """Writes the table, one run a line, each with the commit and the processor that it is of.

    A run that the file has already, with the same numbers, keeps what it has there. So does one whose directory is
    gone, if it was trained by the settings of those in `found`. found: from `read`, not empty.
    conditions: from measure.conditions. path: the file, named after a study.
    """
    config = portable(found[0]["config"])
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    rows = [_with_origin(row(results), conditions, before["runs"]) for results in found]
    if before["runs"] and _settings(before["conditions"]["config"]) == _settings(config):
        new = {_key(each) for each in rows}
        rows = sorted([*rows, *(old for old in before["runs"] if _key(old) not in new)], key=_key)
    kept = {**conditions, "environment": found[0]["environment"], "config": config}
    record = {"name": path.stem.removesuffix("-cpu"), "figures": figures(rows), "conditions": kept}
    head = json.dumps(record, indent=2, allow_nan=False)
    lines = ",\n".join(f"    {json.dumps(each, allow_nan=False)}" for each in rows)
    files.write_text(path, f'{head[:-2]},\n  "runs": [\n{lines}\n  ]\n}}\n')


def _with_origin(new: dict, conditions: dict, before: Sequence[dict]) -> dict:
    """Returns the row with ORIGIN: that of the same row among those before, else today's."""
    nothing = dict.fromkeys(ORIGIN)
    same = [old for old in before if {**old, **nothing} == {**new, **nothing}]
    return new | {key: (same[0] if same else conditions)[key] for key in ORIGIN}


def _settings(config: dict) -> dict:
    """Returns what is equal for all runs of a table."""
    return {name: table for name, table in config.items() if name not in ("method", "run")}


def _key(row: dict) -> tuple[int, int]:
    """Returns what sorts rows: by method in the order of the package, by seed."""
    return [*methods.TABLE].index(row["method"]), row["seed"]


def row(results: dict) -> dict:
    """Returns the part of a run that the table has: SUMMARY, seconds, and PHASES as lists, an item for each phase."""
    seconds = sum(sum(phase["seconds"].values()) for phase in results["phases"])
    return {
        "method": results["method"],
        "seed": results["seed"],
        "compile": results["config"]["run"]["compile"],
        "torch": results["environment"]["torch"],
        **{name: _rounded(results[key]) for name, key in SUMMARY.items()},
        "seconds": round(seconds),
        **{key: [_rounded(phase[key]) for phase in results["phases"]] for key in PHASES},
    }


def figures(rows: Sequence[dict]) -> dict[str, float]:
    """Returns each method's number of runs, and the mean and standard deviation over them of SUMMARY and the seconds.

    rows: from `row`. The deviation is that of a sample (n - 1 in the denominator); it is left out for a method with one
    run.
    """
    made: dict[str, float] = {}
    for method in dict.fromkeys(one["method"] for one in rows):
        own = [one for one in rows if one["method"] == method]
        made[f"{method}_seeds"] = len(own)
        for name in (*SUMMARY, "seconds"):
            values = [one[name] for one in own]
            made[f"{method}_{name}"] = _rounded(statistics.mean(values))
            if len(values) > 1:
                made[f"{method}_{name}_deviation"] = _rounded(statistics.stdev(values))
    return made


def markdown(figures: dict[str, float]) -> str:
    """Returns the means by method as the Markdown table that benchmarks/README.md has, the best last accuracy first.

    figures: of the written file.
    """

    def cell(key: str) -> str:
        deviation = figures.get(f"{key}_deviation")
        return f"{figures[key]:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")

    found = [key.removesuffix("_seeds") for key in figures if key.endswith("_seeds")]
    rows = [HEADING, ("---",) * len(HEADING)]
    for name in sorted(found, key=lambda name: -figures[f"{name}_last"]):
        rows.append((name, str(figures[f"{name}_seeds"]), *(cell(f"{name}_{key}") for key in SUMMARY)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def draw(record: dict) -> bytes:
    """Draws the accuracy by classes seen of the methods in DRAWN. Returns the bytes of an SVG file.

    record: the content of the written file. A line is the mean over the seeds, a band reaches from the lowest to the
    highest of them. A method without runs is left out.
    """
    figure = new_figure(7, 3.4)
    axes = figure.add_subplot()
    data = record["conditions"]["config"]["data"]
    first = data["initial_increment"] or data["increment"]
    for method, (label, colour, marker, line) in DRAWN.items():
        curves = [one["top1"] for one in record["runs"] if one["method"] == method]
        if not curves:
            continue
        seen = [first + data["increment"] * phase for phase in range(len(curves[0]))]
        columns = [*zip(*curves, strict=True)]
        axes.fill_between(seen, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.2, linewidth=0)
        means = [statistics.mean(column) for column in columns]
        axes.plot(seen, means, color=colour, marker=marker, linestyle=line, label=label)
        axes.annotate(f"{means[-1]:.0f}", (seen[-1], means[-1]), (6, 0), textcoords="offset points", va="center")
    axes.set(xlabel="classes seen", ylabel="accuracy on all of them (%)", xticks=seen, ylim=(0, 105))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left")
    picture = svg(figure, "digits")
    assert picture is not None  # None is for no figure
    return picture


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
