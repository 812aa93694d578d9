"""`sweep DIR --search`: chooses values of the configuration by their accuracy on validation images, then tests once.

Each trial is an ordinary run that leaves the test images unseen. The best trial's values are then trained on all
training images, and that run alone is measured on the test images.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.config.flat import flat
from cil_func.errors import ConfigError, NonFiniteError, OwnCodeError
from cil_func.runs import own_code
from cil_func.runs.method_of import method_to_train
from cil_func.studies import search_space, search_study, search_table, sweep_jobs, sweep_plan, sweep_table
from cil_func.studies.finished_runs import FinishedRuns
from cil_func.studies.search_space import Axis
from cil_func.studies.search_study import Study, Trial

OBJECTIVE = "average_incremental_accuracy"
_SHARE_OF_FIRST_PHASE = 0.1  # data.validation of --first-phase, if the configuration has none

Tell = Callable[[str], None]
Train = Callable[[Sequence[sweep_jobs.Job]], dict[str, int]]


def run(options: argparse.Namespace, seeds: list[str], orders: list[str], *, train: Train, tell: Tell) -> int:
    """Does what the flags ask for and returns the exit status: 0, or that of the first run that failed.

    options: the flags of sweep. seeds, orders: of the winner's runs. train: runs jobs and returns their exit statuses,
    see `sweep_jobs.train`. tell: called with lines for a person.
    Raises ConfigError, one line, before anything is trained. Raises NonFiniteError if every trial failed.
    """
    axes = _checked(options)
    settings = _settings(options)
    base = configuration.load(options.config, settings)
    ends = _check_values(options, settings, axes, base)
    for line in sweep_plan.without_effect(ends, [axis.key for axis in axes]):
        tell(f"warning: {line}")
    winners = sweep_plan.runs([], seeds, orders)
    plan = {"search": list(options.search), "round": options.round, "objective": OBJECTIVE, "config": _common(base)}
    study = search_study.opened(options.directory, axes, plan)
    finished = FinishedRuns(where="DIR", tell=lambda line: tell(f"warning: {line}"))
    for first in range(0, options.trials, options.round):
        last = min(first + options.round, options.trials)
        study.propose(first, last)
        finished.check(_tried(options, settings, study.trials()[first:last]))
        if status := _run_trials(options, settings, study, range(first, last), train, tell):
            return status
    trials = study.trials()[: options.trials]
    best = max((each for each in trials if not each.failed), key=lambda each: (each.value, -each.number), default=None)
    if best is None:
        raise NonFiniteError(
            f"all {len(trials)} trials failed, by a loss that is not finite or values that don't go together; search "
            "other values"
        )
    tell(f"{trial_name(best.number)} is the best one; its values are trained on all training images, and tested")
    tested = _winners(best, winners)
    finished.check({
        options.directory / each.name: configuration.load(options.config, [*options.set, *each.settings])
        for each in tested
    })  # fmt: skip
    status = _run_winner(options, tested, train)
    found = search_table.collect(options.directory, axes, trials, best, tested, base)
    search_table.write(options.directory, found, {"config": options.config, "set": options.set, **plan})
    tell(f"\n{search_table.markdown(found)}\n{options.directory / 'table.md'}")
    return status


def _common(base: Config) -> dict[str, Any]:
    """Returns {dotted key: value} of the configuration that all processes of a search have to have, in JSON's types."""
    return {key: value for key, value in flat(base).items() if key not in search_study.MACHINE}


def trial_name(number: int) -> str:
    """Returns the name of a trial's run directory inside the sweep's: "trial-003"."""
    return f"trial-{number:03}"


def _checked(options: argparse.Namespace) -> list[Axis]:
    """Returns the axes. Raises ConfigError for flags that don't go together, or if optuna isn't installed."""
    axes = search_space.parse(options.search)
    if options.grid:
        raise ConfigError("--search and --grid: one or the other; values to compare can be a range v1,v2 of --search")
    if options.print:
        raise ConfigError("--search and --print: later trials depend on the results of earlier ones; run the command")
    if options.trials < 1:
        raise ConfigError(f"--trials {options.trials}: say how many choices of values to try, as in --trials 20")
    if options.round < 1:
        raise ConfigError(f"--round {options.round}: give 1 or more")
    search_study.check_installed()
    return axes


def _settings(options: argparse.Namespace) -> list[str]:
    """Returns what all trials set. Raises ConfigError if there would be no validation images."""
    share = configuration.load(options.config, options.set).data.validation
    if not share and not options.first_phase:
        raise ConfigError(
            "--search: data.validation = 0, so values would be chosen by the test images; add --set data.validation=0.1"
        )
    first = [f"data.validation={share or _SHARE_OF_FIRST_PHASE}", "data.phases=1"] if options.first_phase else []
    return [*options.set, *first, "data.tests_on=validation"]


def _check_values(
    options: argparse.Namespace, settings: Sequence[str], axes: Sequence[Axis], shared: Config
) -> list[Config]:
    """Returns a configuration for each end of each range, with the first end of the other ranges.

    shared: the configuration that all trials share. Raises ConfigError for a wrong end of a range, and for a key that
    has no effect in phase 0, if that alone is trained.
    """
    methods = []
    found: dict[str, list[Config]] = {axis.key: [] for axis in axes}
    for axis in axes:
        table, name, *_ = axis.key.split(".")
        if options.first_phase and table == "optim" and getattr(shared.optim.first_phase, name, None) is not None:
            raise ConfigError(
                f"--search {axis.key}: has no effect in phase 0, whose own {name} is in [optim.first_phase]; search "
                f"optim.first_phase.{axis.key.removeprefix('optim.')}"
            )
        for value in axis.ends:
            others = [f"{other.key}={other.ends[0]}" for other in axes if other is not axis]
            try:
                config = configuration.load(options.config, [*settings, *others, f"{axis.key}={value}"])
                own_code.renew(config)  # each trial is a process of its own
                methods.append(method_to_train(config))
                found[axis.key].append(config)
            except ConfigError as error:
                raise ConfigError(f"{str(error).removeprefix('--set ')} (--search {axis.key})") from error
    if options.first_phase:
        search_space.refuse_later_phases(found, by_means=any(each.predict == "nme" for each in methods))
    return [config for configs in found.values() for config in configs]


def _tried(options: argparse.Namespace, settings: Sequence[str], trials: Sequence[Trial]) -> dict[Path, Config]:
    """Returns {run directory: configuration} of the trials, without those whose values don't go together."""
    found = {}
    for each in trials:
        with suppress(ConfigError):
            config = configuration.load(options.config, [*settings, *each.settings])
            found[options.directory / trial_name(each.number)] = config
    return found


def _run_trials(
    options: argparse.Namespace, settings: Sequence[str], study: Study, numbers: range, train: Train, tell: Tell
) -> int:
    """Runs the trials with these numbers, or waits for other processes that do. Returns 0, or a failed run's status."""

    def left() -> dict[str, list[str]]:
        found = {}
        for trial in _open(study, numbers):
            if results := sweep_table.results_of(options.directory / trial_name(trial.number)):
                study.record(trial.number, results[OBJECTIVE])
                continue
            made = sweep_plan.Run(trial_name(trial.number), trial.settings, (), ("", ""))
            try:
                sweep_plan.checked(options.config, settings, [made])
            except OwnCodeError:  # the file may be mended
                raise
            except ConfigError as error:  # the ends of its ranges are allowed, and these between them are not
                failed(made.name, str(error))
                continue
            found[made.name] = sweep_plan.command(options.config, settings, made, options.directory)
        return found

    def failed(name: str, why: str = "its loss is not finite") -> None:
        tell(f"{name}: {why}; the trial counts as failed")
        study.record(int(name.rpartition("-")[2]), None)

    return _finish(options.directory, left, train, accept={NonFiniteError.exit_status: failed})


def _open(study: Study, numbers: range) -> list[Trial]:
    return [trial for trial in study.trials() if trial.number in numbers and not trial.ended]


def _winners(best: Trial, winners: Sequence[sweep_plan.Run]) -> list[sweep_plan.Run]:
    """Returns the runs of the winner: those of `sweep_plan.runs`, with the best trial's values and all images."""
    common = (*best.settings, "data.validation=0", "data.tests_on=test")
    name = search_table.winner_name(best.number)
    return [
        each._replace(name=name if each.name == "run" else f"{name}_{each.name}", settings=(*each.settings, *common))
        for each in winners
    ]


def _run_winner(options: argparse.Namespace, runs: Sequence[sweep_plan.Run], train: Train) -> int:
    """Trains the winner's runs, or waits for other processes that do. Returns 0, or a failed run's exit status."""

    def left() -> dict[str, list[str]]:
        unfinished = [each for each in runs if not sweep_table.results_of(options.directory / each.name)]
        command = partial(sweep_plan.command, options.config, options.set, directory=options.directory)
        return {each.name: command(run=each) for each in unfinished}

    return _finish(options.directory, left, train, accept={})


def _finish(
    directory: Path, left: Callable[[], dict[str, list[str]]], train: Train, *, accept: dict[int, Callable[[str], None]]
) -> int:
    """Trains until nothing is left. Returns 0, or the first exit status of a run that is neither 0 nor accepted.

    left: returns {name of a run: its command} of those that are not finished. accept: {exit status: called with the
    run's name}.
    """
    while commands := left():
        ended = train([sweep_jobs.Job(name, arguments, directory) for name, arguments in commands.items()])
        for name, status in ended.items():
            if status in accept:
                accept[status](name)
            elif status:
                return status
        sweep_table.refuse_without_results(directory, ended)
    return 0
