"""What a run leaves while it goes on: events in metrics.jsonl and on the screen, results.json, config.toml."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cil_func import config as configuration
from cil_func.errors import printable
from cil_func.report import console
from cil_func.runs import checkpoints, environment, event_log, files, setup


class Recorder(NamedTuple):
    """emit(event) records and shows an event; save(results) writes results.json; log_bytes() is the present length of
    metrics.jsonl, for a checkpoint. In all processes but the first they do nothing."""

    emit: Callable[[dict], None]
    save: Callable[[dict], None]
    log_bytes: Callable[[], int]


@contextmanager
def recorder(
    directory: Path, ready: setup.Setup, held: checkpoints.Loaded | None, *, warnings: Sequence[str] = ()
) -> Iterator[Recorder]:
    """The recorder of a run that starts, or goes on from the checkpoint `held`; its files are closed after the block.

    warnings: lines that are on the screen already; a new run has them in its log.
    What metrics.jsonl got after that checkpoint is cut off, for it comes again. A file that a person deletes while the
    run goes on is written again at the next event or checkpoint. Raises DiskError for what can't be written.
    """
    if not ready.processes.first:
        yield Recorder((lambda event: None), (lambda results: None), (lambda: 0))
        return
    log_path, config_path = directory / "metrics.jsonl", directory / "config.toml"
    config_text = configuration.to_toml(ready.config)
    if not config_path.exists() or configuration.load(str(config_path)) != ready.config:  # data.path may have changed
        files.write_text(config_path, config_text)
    _cut(log_path, held.record["log_bytes"] if held else 0)
    header = _header(ready)
    machine = environment.environment(ready.experiment.device, ready.config.run.precision, ready.processes.size)

    long_work = ready.processes.activity.long_work  # a disk may be slow, and a terminal may be stopped

    def save(results: dict) -> None:
        with long_work("writing the results"):
            files.write_json(directory / "results.json", header | results | {"environment": machine})

    with _screen() as screen, event_log.EventLog(log_path, on_warning=lambda event: screen(event)) as log:

        def emit(event: dict) -> None:
            with long_work("writing an event"):
                log(event)
                for problem in screen(event):
                    log(_warning(problem))
                if event["event"] not in event_log.NOT_LOGGED:
                    restore_config()

        def restore_config() -> None:
            if not config_path.exists():
                files.write_text(config_path, config_text)
                emit(_warning("config.toml was deleted while the run went on; it is written again"))

        def log_bytes() -> int:
            log.size()  # says so if the whole directory is gone
            restore_config()
            return log.size()

        for message in warnings if held is None else ():
            log(_warning(message))
        for problem in screen.remember(log_path):
            emit(_warning(problem))
        yield Recorder(emit, save, log_bytes)


def _header(ready: setup.Setup) -> dict:
    """What results.json says besides what was measured."""
    experiment, order = ready.experiment, ready.experiment.scenario.class_order
    return {
        "method": experiment.method.name,
        "class_order": list(order),
        "class_names": [experiment.class_names[index] for index in order],  # in the same order
        "num_classes": experiment.num_classes,
        "seed": ready.config.run.seed,
        "config": configuration.to_dict(ready.config),
        "skipped_images": ready.skipped,
        "data_warnings": ready.data_warnings,
        "data_fingerprint": ready.fingerprint,
        "data_stamp": ready.stamp,
    }


def _cut(path: Path, size: int) -> None:
    """Cuts a file that is longer."""
    with files.disk_errors(path), suppress(FileNotFoundError):
        os.truncate(path, min(size, path.stat().st_size))


def _warning(message: str) -> dict:
    return {"event": "warning", "message": message}


class _Screen:
    """A console that ends no run: it is given up where it fails. Each call returns lines about that."""

    def __init__(self, show: console.Console) -> None:
        self._show: console.Console | None = show

    def __call__(self, event: Mapping[str, Any]) -> list[str]:
        """Shows an event."""
        try:
            if self._show:
                self._show(event)
        except OSError:
            pass  # nobody reads the screen any more (`| head`), and the training goes on
        except Exception as error:
            self._show = None
            return [f"the screen shows no more of this run ({_named(error)})"]
        return []

    def remember(self, path: Path) -> list[str]:
        """Takes note of what happened before, in a run that goes on."""
        try:
            for event in event_log.read(path):
                self._show.remember(event)
        except Exception as error:
            return [f"{path.name} can't be read whole, so the time left may be wrong ({_named(error)})"]
        return []


@contextmanager
def _screen() -> Iterator[_Screen]:
    show = console.make()
    try:
        yield _Screen(show)
    finally:
        with suppress(Exception):
            show.close()


def _named(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
