"""The command `python -m cil_func edit RUN`: a finished run's model without some classes, or with new names of them."""

import argparse
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cil_func import classifier, tree
from cil_func.config.messages import shown
from cil_func.config.parser import Parser
from cil_func.deploy import calibration, edit_history, edit_plan, predictor
from cil_func.deploy.answering import answered
from cil_func.deploy.edit_plan import Plan
from cil_func.errors import CheckpointError, ConfigError, printable
from cil_func.methods.extra import without_logits
from cil_func.runs import checkpoints, files, lock, memory_files, output, status
from cil_func.runs.checkpoints import SavedModel

NAME = "edit"
NOT_UNLEARNED = (
    "note: dropping a class is not unlearning: its images have shaped the features by which the other classes are told "
    "apart, and may be traced in them. To remove their influence, train anew without them."
)
_MEASURED = (  # keys of results.json that were measured on the classes before the edit
    "phases", "accuracy_matrix", "average_incremental_accuracy", "last_accuracy", "forgetting", "backward_transfer",
    "validation",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status.

    arguments: the flags, without the program's name; None: those of this process.
    0: NEW is written. 2: a wrong flag, class or directory. 5: RUN is not finished or damaged. 6: another process writes
    NEW. 74: NEW can't be written.
    """
    return answered(NAME, lambda: _edit(_parse(arguments)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func edit", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a finished run; it is only read")
    parser.add_argument("--drop", action="append", default=[], metavar="CLASS", help="drop this class; repeatable")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="rename a class; repeatable")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help="the new directory")
    return parser.parse_args(arguments)


def _edit(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    run = Path(os.path.expanduser(options.run)).resolve()
    model = predictor.load(run, device="cpu")
    plan = edit_plan.plan(model.class_names, options.drop, options.rename)
    results, config = _results(run), _read(run / "config.toml")
    with new_directory(Path(os.path.expanduser(options.out))) as folder:
        files.write_bytes(folder / "config.toml", config)
        checkpoints.save_model(folder, edited(model.saved, plan, run=str(run)))
        if model.calibration and not plan.dropped:  # a temperature belongs to the classes that it was fitted with
            new = checkpoints.load_model(folder).description["sha256"]
            calibration.save(folder, model.calibration, model_sha256=new)
        memory_files.copy(run, folder, plan.named)
        files.write_json(folder / "results.json", edited_results(results, plan, run=str(run)))
        status.Status(folder).finished(f"edited from {run}")
    output.say(printable(f"{options.out}: {told(plan, len(model.class_names))}"))
    if odd := edit_plan.without_folder(list(plan.renamed.values())):
        output.say(
            f"note: no folder of images can be called {', '.join(map(shown, odd))}: calibrate and compare --data won't "
            'find its images; a name without "/" and without a dot in front will do'
        )
    if plan.dropped:
        output.say(NOT_UNLEARNED)
        if model.calibration:
            output.say(printable(f"note: {options.out} is not calibrated; python -m cil_func calibrate does that"))
    return 0


def edited(saved: SavedModel, plan: Plan, *, run: str) -> SavedModel:
    """Returns a model without the rows and class means of the dropped classes, and with the new names.

    run: the directory of the model, for the lineage. "phases" keeps its length: a phase whose classes are all gone has
    the size 0, since some methods have parameters for each phase.
    """
    described, gone = saved.description, set(plan.rows)
    kept = [entry for row, entry in enumerate(described["classes"]) if row not in gone]
    phase_of = [phase for phase, size in enumerate(described["phases"]) for _ in range(size)]
    sizes = [
        sum(own == phase and row not in gone for row, own in enumerate(phase_of))
        for phase in range(len(described["phases"]))
    ]
    description = {key: value for key, value in described.items() if key not in ("format", "sha256")} | {
        "classes": [{**entry, "name": name} for entry, name in zip(kept, plan.names, strict=True)],
        "phases": sizes,
        "lineage": edit_history.with_edit(described, run=run, dropped=plan.dropped, renamed=plan.renamed),
    }
    if not plan.rows:
        return saved._replace(description=description)
    left = classifier.drop({"classifier": saved.params["classifier"], "means": saved.means}, plan.rows)
    return saved._replace(
        params={**saved.params, "classifier": left["classifier"]},
        means=left["means"],
        description=description,
        extra=_without_rows(without_logits(saved.extra)[0], plan.rows),
    )


def _without_rows(extra: tree.Tree, rows: Sequence[int]) -> tree.Tree:
    """Returns what a method remembers, such as importances, without what belongs to the dropped classes.

    extra: nested dicts. A tree in it that is like params has its classes' rows under "classifier".
    """
    if not isinstance(extra, dict):
        return extra
    return {
        key: classifier.drop(part, rows) if key == "classifier" else _without_rows(part, rows)
        for key, part in extra.items()
    }


def edited_results(results: dict[str, Any], plan: Plan, *, run: str) -> dict[str, Any]:
    """Returns the results.json of an edited model.

    results: of the run. Names and the number of classes follow the edit. If a class is dropped, what the run has
    measured is no longer true of this model, which nothing was measured of: those figures are null or empty here, and
    stand under "before_edit" as they were. "memory" counts the exemplars that are left.
    """
    left = [row for row in range(len(results["class_order"])) if row not in plan.rows]
    new = results | {"class_order": [results["class_order"][row] for row in left], "class_names": list(plan.names)}
    new["num_classes"] = len(plan.names)
    if "class_tests" in results:
        new["class_tests"] = [results["class_tests"][row] for row in left]
    if "held_out" in results:
        new["held_out"] = [new_row for new_row, row in enumerate(left) if row in results["held_out"]]
    new["edited"] = {"run": run, "dropped": list(plan.dropped), "renamed": plan.renamed}
    if not plan.dropped:
        return new
    measured = {key: results[key] for key in _MEASURED if key in results}
    empty: dict[str, Any] = {key: [] if isinstance(value, list) else None for key, value in measured.items()}
    before = {"run": run, "class_names": results.get("class_names"), **measured}
    memory = {"memory": _memory_without(results["memory"], plan.rows)} if results.get("memory") else {}
    return new | empty | memory | {"before_edit": before if results["phases"] else results.get("before_edit")}


def _memory_without(memory: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Returns the size of a run's exemplars, see `memory_files.size_of`, without those of some classes."""
    left = [count for row, count in enumerate(memory["per_class"]) if row not in rows]
    bytes_an_image = memory["bytes"] // max(1, memory["images"])
    return {**memory, "images": sum(left), "bytes": sum(left) * bytes_an_image, "per_class": left}


def told(plan: Plan, before: int) -> str:
    """Returns what an edit has done, in words. before: how many classes there were."""
    done = [f"{len(plan.names)} of {before} classes"]
    done += [f"without {', '.join(plan.dropped)}"] if plan.dropped else []
    done += [f"{old} is called {new} now" for old, new in plan.renamed.items()]
    return "; ".join(done)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Returns a context manager that yields an empty folder, which becomes `out` at the end of the block.

    out: must not exist, or be an empty folder. Until the end there is only a folder beside it, `.NAME.edit.tmp`, which
    is deleted if the block fails, and by the next edit if the process was killed.
    Raises ConfigError if `out` holds anything or is the current directory, InUseError if another process is writing
    it, DiskError.
    """
    _refuse_full(out)
    folder = out.with_name(f".{out.name}.edit.tmp")
    files.make_directory(folder)
    with lock.lock_directory(folder):
        try:
            with files.disk_errors(folder):
                for left in folder.iterdir():
                    if left.name != lock.NAME:
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield folder
            _refuse_full(out)
            with files.disk_errors(out):
                (folder / lock.NAME).unlink()
                os.rename(folder, out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _refuse_full(out: Path) -> None:
    """Raises ConfigError if a path is a file, the current directory, or a folder that is not empty."""
    try:
        held = sorted(os.listdir(out))
    except FileNotFoundError:
        return
    except OSError as error:
        what = "is a file" if error.errno == errno.ENOTDIR else f"can't be listed ({error.strerror})"
        raise ConfigError(f"--out {out}: {what}; choose another one") from error
    if out.resolve() == Path.cwd():
        raise ConfigError(f"--out {out}: the current directory can't be replaced; name a folder in it")
    if held:
        raise ConfigError(f"--out {out}: not empty, it holds {held[0]}; choose another one")


def _results(run: Path) -> dict[str, Any]:
    """Returns the content of a run's results.json. Raises CheckpointError if it can't be used."""
    try:
        results = json.loads(_read(run / "results.json"))
        results["class_order"], results["phases"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run}: results.json is damaged ({error}); put it back from a copy") from error
    return results


def _read(path: Path) -> bytes:
    """Returns the bytes of a run's file. Raises CheckpointError if there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror}; edit the whole run directory, or put the file back"
        ) from error
