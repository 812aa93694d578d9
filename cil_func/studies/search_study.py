"""The trials of a search, kept by optuna in a journal file that several processes and machines may share.

optuna is imported when a study is opened: it is an extra of the package.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cil_func import rng
from cil_func.config import Config
from cil_func.config.flat import flat
from cil_func.errors import ConfigError, InUseError
from cil_func.runs import files
from cil_func.runs.lock import lock_directory
from cil_func.studies.search_space import Axis

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
# Keys of the configuration in which processes that share a search may differ.
MACHINE = ("data.path", "data.workers", "data.packed", "run.threads", "run.device")
_NAME, _PLAN = "search", "plan"
_PATIENCE = 0.1  # seconds between two looks at the lock


class Trial(NamedTuple):
    """One choice of values. values: {key: as --set takes it}. value: the objective; None: not known, or it failed.

    ended: whether it is done. failed: whether its values were not allowed together, or its loss was not finite.
    """

    number: int
    values: dict[str, str]
    value: float | None
    ended: bool
    failed: bool

    @property
    def settings(self) -> tuple[str, ...]:
        """The values, each "table.key=value"."""
        return tuple(f"{key}={value}" for key, value in self.values.items())


class Study:
    """The trials of a search in a directory. Made by `opened`."""

    def __init__(self, study: "optuna.Study", axes: Sequence[Axis], directory: Path):
        self._study, self._axes, self._directory = study, axes, directory

    def trials(self) -> list[Trial]:
        """Returns all trials so far, by number, those of other processes included."""
        found = []
        for each in sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number):
            values = {axis.key: axis.text(each.params[axis.key]) for axis in self._axes}
            value = each.value if each.state.name == "COMPLETE" else None
            found.append(Trial(each.number, values, value, each.state.is_finished(), each.state.name == "FAIL"))
        return found

    def propose(self, first: int, last: int) -> None:
        """Adds the trials `first` to `last` - 1, those that aren't there yet. Raises DiskError.

        Their values follow from their numbers and the results of trials before `first`, so from whoever proposes them,
        and whenever, they are the same. A trial is added by one line of the journal, so that none is ever half there.
        """
        from optuna.trial import TrialState, create_trial

        with _writing(self._directory):
            known = sorted(self._study.get_trials(deepcopy=True), key=lambda trial: trial.number)
            earlier = [trial for trial in known if trial.number < first and trial.state == TrialState.COMPLETE]
            for number in range(len(known), last):
                params, distributions = _chosen(earlier, self._axes, number)
                self._study.add_trial(
                    create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
                )

    def record(self, number: int, value: float | None) -> None:
        """Notes that a trial has ended, unless that is known. Raises DiskError.

        value: its objective; None: it failed.
        """
        from optuna.trial import TrialState

        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        with _writing(self._directory):
            self._study.tell(number, value, state=state, skip_if_finished=True)


def check_installed() -> None:
    """Raises ConfigError if optuna is not installed."""
    if find_spec("optuna") is None:
        raise ConfigError(
            "--search needs the package optuna, which is not installed; pip install optuna, or try values by --grid"
        )


def opened(directory: Path, axes: Sequence[Axis], plan: Mapping[str, Any]) -> Study:
    """Returns the study in a directory, which is made if it isn't there. axes: what is searched.

    plan: what all processes that share the study have to have in common, in types of JSON.
    Raises ConfigError if the directory holds a search with another plan, or a journal that can't be read, DiskError if
    it can't be written.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory / JOURNAL
    with files.disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _writing(directory), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the journal's interface may change
        try:
            backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path)))  # one of a killed process ends
            storage = JournalStorage(backend)
            study = optuna.create_study(storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{path} is damaged ({error}); put it back from a copy, or take another DIR") from error
        _agree(study, json.loads(json.dumps(plan)), directory)
    return Study(study, axes, directory)


def _agree(study: "optuna.Study", plan: dict[str, Any], directory: Path) -> None:
    """Stores the plan of a new study. Raises ConfigError if the study has another one, with the key that differs.

    A key that a plan's configuration lacks, as one of an older version may, has its default.
    """
    known = study.user_attrs.get(_PLAN)
    if known is None:
        study.set_user_attr(_PLAN, plan)
        return
    defaults = json.loads(json.dumps(flat(Config())))
    both = [{**each, **defaults, **each["config"], "config": None} for each in (known, plan)]
    keys = [key for key in {**both[0], **both[1]} if key not in MACHINE]
    if differing := [key for key in keys if both[0].get(key) != both[1].get(key)]:
        raise ConfigError(
            f"{directory} holds another search: {differing[0]} differs; give the same, or take another DIR"
        )


def _chosen(
    earlier: "Sequence[optuna.trial.FrozenTrial]", axes: Sequence[Axis], number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ({key: value}, {key: optuna's distribution}) of trial `number`, by optuna's TPE.

    earlier: the trials whose results it knows. With fewer than ten results, failed trials not counted, it is random.
    """
    import optuna

    seed = rng.fold_in(0, "search", number) % 2**32
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize")
    study.add_trials(earlier)
    distributions = {axis.key: _distribution(axis) for axis in axes}
    return study.ask(distributions).params, distributions


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kinds: dict[str, Callable[[], Any]] = {
        "choice": lambda: CategoricalDistribution(axis.choices),
        "int": lambda: IntDistribution(int(axis.low), int(axis.high)),
        "log": lambda: FloatDistribution(axis.low, axis.high, log=True),
        "uniform": lambda: FloatDistribution(axis.low, axis.high),
    }
    return kinds[axis.kind]()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Returns a context manager: no other process of the search is in such a block meanwhile; it waits for them."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_directory(directory))
                break
            except InUseError:
                time.sleep(_PATIENCE)
        yield


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Returns a context manager in whose block this process alone writes the journal.

    A line that was written in part is cut off: before the block, that of a killed process; after it, on a full disk,
    its own. Raises DiskError.
    """
    path = directory / JOURNAL
    with _alone(directory), files.disk_errors(path):
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if len(data) > whole:
            os.truncate(path, whole)
        try:
            yield
        except OSError:
            with suppress(OSError):
                os.truncate(path, whole)
            raise
