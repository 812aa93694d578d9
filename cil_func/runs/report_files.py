"""Reads a run's results and events, and writes its report/ folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cil_func.errors import ConfigError, printable
from cil_func.report import contents
from cil_func.runs import event_log, files


def write_report(directory: str | Path, *, warn: Callable[[str], None] | None = None) -> list[Path]:
    """Draws `directory`/report/ from the run's files. Returns the paths of the files that were written.

    directory: a run directory. A picture of an earlier drawing that this run doesn't have any more is deleted.
    warn: called with one line for each reason why files can't be drawn; the other files are written. None: the first
    failure is raised.
    Raises ConfigError for a folder without a readable results.json. Raises DiskError if report/ can't be written.
    """
    directory = Path(directory)
    folder = directory / "report"
    results, log = read_run(directory)
    files.make_directory(folder)
    made = contents.make(results, log, warn=warn and (lambda line: warn(printable(f"{folder}: {line}"))))
    for name, content in made.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            files.write_bytes(folder / name, content)
    return [folder / name for name, content in made.items() if content is not None]


def read_run(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Reads a run directory. Returns (the content of results.json, the events of metrics.jsonl in order).

    There are no events if metrics.jsonl is missing.
    Raises ConfigError if results.json is missing or has no phases, or if one of the files is damaged.
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
    return results, log
