"""Records a run while it goes on: events in metrics.jsonl and on the screen, results.json, config.toml."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.errors import printable
from cil_func.report import console
from cil_func.report.base_console import Console
from cil_func.runs import checkpoints, environment, event_log, files, own_code, setup
from cil_func.runs import loggers as logging


class Recorder:
    """What a run calls so that it is recorded. `recorder` makes the right one for each process.

    The docstrings of its methods say what rank 0's recorder does. This class, for other processes, does nothing.
    """

    def emit(self, event: dict) -> None:
        """Logs an event, a dict with the key "event", in metrics.jsonl and shows it on the screen."""

    def save(self, results: dict) -> None:
        """Writes results.json. results: what was measured; the run's configuration, data and environment are added."""

    def log_bytes(self) -> int:
        """Returns the present size of metrics.jsonl, which a checkpoint stores; 0 on other processes than rank 0."""
        return 0


@contextmanager
def recorder(
    directory: Path, ready: setup.Setup, loaded: checkpoints.Loaded | None, *, warnings: Sequence[str] = ()
) -> Iterator[Recorder]:
    """Returns a context manager that yields the `Recorder` of a run, and closes its files at the end.

    directory: the run directory. ready: the run.
    loaded: the checkpoint that the run goes on from; None if it begins.
    warnings: lines that the screen has shown before; a new run logs them.
    On rank 0 it writes config.toml and cuts off what was logged after the checkpoint, for it will be logged again. If a
    person deletes config.toml or metrics.jsonl while the run goes on, they are written again at the next event or
    checkpoint.
    Raises DiskError if a file can't be written.
    """
    if not ready.processes.first:
        yield Recorder()
        return
    path = directory / "metrics.jsonl"
    _write_config(directory / "config.toml", ready.config)
    _cut(path, loaded.record["log_bytes"] if loaded else 0)
    with _screen() as screen, event_log.EventLog(path, on_warning=screen) as log, logging.opened() as loggers:
        own_files = own_code.digests(ready.config, loaded.record if loaded else None)
        writer = _Writer(directory, ready, log, screen, loggers, own_files)
        for message in warnings if loaded is None else ():
            log(_warning(message))
        for problem in screen.remember(path):
            writer.emit(_warning(problem))
        work = ready.processes.activity.long_work
        with work("opening the loggers"):
            problems = loggers.open(ready.config.run.loggers, directory, configuration.to_dict(ready.config))
        for problem in problems:
            writer.emit(_warning(problem))
        yield writer
        with work("closing the loggers"):
            problems = loggers.close()
        for problem in problems:
            writer.emit(_warning(problem))


class _Writer(Recorder):
    """The recorder of rank 0."""

    def __init__(
        self,
        directory: Path,
        ready: setup.Setup,
        log: event_log.EventLog,
        screen: "_Screen",
        loggers: logging.Loggers,
        own_files: dict[str, str],
    ):
        self._log, self._screen, self._loggers, self._directory = log, screen, loggers, directory
        self._config_text = configuration.to_toml(ready.config)
        self._header = _header(ready) | {"own_code": own_files}
        found = environment.environment(ready.experiment.device, ready.config.run.precision, ready.processes.size)
        self._environment = {"environment": found}
        # Other processes may wait meanwhile: a disk may be slow, and a terminal may be stopped.
        self._long_work = ready.processes.activity.long_work

    def emit(self, event: dict) -> None:
        with self._long_work("writing an event"):
            self._log(event)
            for problem in self._screen(event):
                self._log(_warning(problem))
            for problem in self._loggers(event):  # it is not used any more, so it can't fail at the warning too
                self.emit(_warning(problem))
            if event["event"] not in event_log.NOT_LOGGED:
                self._restore_config()

    def save(self, results: dict) -> None:
        with self._long_work("writing the results"):
            files.write_json(self._directory / "results.json", self._header | results | self._environment)

    def log_bytes(self) -> int:
        self._log.size()  # raises DiskError if the whole directory is gone
        self._restore_config()
        return self._log.size()

    def _restore_config(self) -> None:
        """Writes config.toml again, with a "warning" event, if somebody has deleted it."""
        path = self._directory / "config.toml"
        if not path.exists():
            files.write_text(path, self._config_text)
            self.emit(_warning("config.toml was deleted while the run went on; it is written again"))


def _write_config(path: Path, config: configuration.Config) -> None:
    """Writes config.toml unless it holds this configuration already; data.path may have changed."""
    if not path.exists() or configuration.load(str(path)) != config:
        files.write_text(path, configuration.to_toml(config))


def _header(ready: setup.Setup) -> dict:
    """Returns the keys of results.json that don't depend on what was measured."""
    experiment, order, extended = ready.experiment, ready.experiment.scenario.class_order, ready.extended
    of_parent = {"extends": str(extended.directory), "old_classes_tested_on": ready.tested_on,
                 **ready.choice.record()} if extended else {}  # fmt: skip
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
        "tests_fingerprint": ready.tests_fingerprint,
        "class_tests": ready.class_tests,
        "data_stamp": ready.stamp,
        **of_parent,
    }


def _cut(path: Path, size: int) -> None:
    """Cuts a file to `size` bytes if it is longer. Does nothing if there is no such file."""
    with files.disk_errors(path), suppress(FileNotFoundError):
        os.truncate(path, min(size, path.stat().st_size))


def _warning(message: str) -> dict:
    return {"event": "warning", "message": message}


class _Screen:
    """Shows events on a console, and never ends a run: a console that fails is not used any more.

    show: the console. Each method returns warnings for the log about such a failure, one line each; [] if there was
    none.
    """

    def __init__(self, show: Console) -> None:
        self._show: Console | None = show

    def __call__(self, event: Mapping[str, Any]) -> list[str]:
        """Shows an event. If nobody reads the output any more, there is no warning."""
        try:
            if self._show:
                self._show(event)
        except OSError:  # `| head`, or a terminal that was closed; the training goes on
            self._leave()
        except Exception as error:
            self._leave()
            return [f"the screen shows no more of this run ({_text_of(error)})"]
        return []

    def _leave(self) -> None:
        """Closes the console, which gives stdout and stderr back, and uses it no more: it would draw all again."""
        show, self._show = self._show, None
        with suppress(Exception):
            if show:
                show.close()

    def remember(self, path: Path) -> list[str]:
        """Lets the console take note of the events in the log at `path`, to estimate times; shows nothing."""
        show = self._show
        if not show:
            return []
        try:
            for event in event_log.read(path):
                show.remember(event)
        except Exception as error:
            return [f"{path.name} can't be read whole, so the time left may be wrong ({_text_of(error)})"]
        return []


@contextmanager
def _screen() -> Iterator[_Screen]:
    """Returns a context manager that yields the `_Screen` of this terminal, and closes it at the end."""
    show = console.make()
    try:
        yield _Screen(show)
    finally:
        with suppress(Exception):
            show.close()


def _text_of(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
