"""Reads a run's files, and writes its report/ folder; reads several runs, and writes their comparison."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.errors import ConfigError, printable
from cil_func.report import contents, several
from cil_func.report.material import Material
from cil_func.runs import event_log, exemplar_files, files, status


def write_report(
    directory: str | Path, *, out: str | Path | None = None, warn: Callable[[str], None] | None = None
) -> list[Path]:
    """Draws a run's report from its files. Returns the paths of the files that were written, report.html last.

    directory: the run directory. out: the folder to write, made if it is missing; None: `directory`/report. A picture
    of an earlier drawing that this run doesn't have any more is deleted there.
    warn: called with one line for each reason why files can't be drawn; the other files are written. None: the first
    failure is raised.
    Raises ConfigError for a folder without a readable results.json. Raises DiskError if the folder can't be written.
    """
    directory = Path(directory)
    folder = Path(out) if out else directory / "report"
    run = read_run(directory)
    files.make_directory(folder)
    return _write(folder, contents.make(run, warn=warn and (lambda line: warn(printable(f"{folder}: {line}")))))


def write_comparison(directories: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Writes the report of several runs. Returns the paths of the files that were written, report.html last.

    directories: of the runs; one that is named twice counts once. out: the folder to write, made if it is missing.
    Raises ConfigError for a folder without a readable results.json. Raises DiskError if `out` can't be written.
    """
    runs = _read_runs(directories)
    files.make_directory(Path(out))
    return _write(Path(out), several.make(runs))


def comparison(directories: Sequence[str | Path]) -> str:
    """Returns the Markdown table of several runs, without writing it.

    directories, errors: as of `write_comparison`.
    """
    return several.markdown(several.groups_of(_read_runs(directories)))


def _read_runs(directories: Sequence[str | Path]) -> list[Material]:
    """Returns what `read_run` returns for each directory, of the same one once. Raises ConfigError as it does.

    Keys that a run's configuration lacks, as one of an older version may, have their defaults, by which it was trained.
    It raises ConfigError for results that can't be compared, too: a phase lacks what a table or a curve is made of.
    """
    named: dict[Path, Path] = {}
    for directory in map(Path, directories):
        named.setdefault(directory.resolve(), directory)
    runs = [read_run(directory) for directory in named.values()]
    for run in runs:
        for row in run.results["phases"]:
            if lacking := [key for key in ("classes_seen", "num_new", "top1") if key not in row]:
                raise ConfigError(f"{Path(run.directory) / 'results.json'}: a phase has no {lacking[0]!r}")
    defaults = configuration.to_dict(Config())
    return [run._replace(results={**run.results, "config": _filled(run.results, defaults)}) for run in runs]


def _filled(results: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration in results.json, each of its tables with the defaults of what it lacks."""
    tables = results.get("config") or {}
    return {**tables, **{name: {**table, **tables.get(name, {})} for name, table in defaults.items()}}


def read_run(directory: Path) -> Material:
    """Reads the files of a run directory that a report shows. What is missing besides results.json is left empty.

    Raises ConfigError if results.json is missing or has no phases, or if it or metrics.jsonl is damaged.
    """
    path = directory / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        log = event_log.read(directory / "metrics.jsonl") if (directory / "metrics.jsonl").exists() else []
    except OSError as error:
        raise ConfigError(
            f"{directory}: no readable results.json ({error.strerror}); give a run directory, "
            "which has one as soon as its first phase has ended"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{directory}: results.json or metrics.jsonl is broken: {error}") from error
    if not isinstance(results, dict) or not results.get("phases"):
        raise ConfigError(f"{path}: holds no phases, so there is nothing to draw")
    return Material(
        directory=printable(str(directory)),
        results=results,
        log=log,
        lineage=_lineage(directory / "model.json"),
        exemplars=exemplar_files.read(directory / "memory"),
        state=status.read(directory).get("state") or "",
    )


def _lineage(path: Path) -> Mapping[str, Any]:
    """Returns what model.json says about where the run came from; {} if it says nothing, or can't be read."""
    found = files.read_object(path).get("lineage")
    return found if isinstance(found, dict) else {"lineage": found} if found else {}


def _write(folder: Path, made: Mapping[str, bytes | None]) -> list[Path]:
    """Writes {file name: content} into a folder, and deletes files without content. Returns the written paths.

    Raises DiskError.
    """
    for name, content in made.items():
        if content is None:
            with files.disk_errors(folder / name):
                (folder / name).unlink(missing_ok=True)
        else:
            files.write_bytes(folder / name, content)
    return [folder / name for name, content in made.items() if content is not None]
