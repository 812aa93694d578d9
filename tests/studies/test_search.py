"""Searches: ranges, mistakes, trials that follow from their numbers, what a killed search goes on with."""

import argparse
import errno
import json
import math
import os
from pathlib import Path

import pytest
import tiny

import train
from cil_func import config
from cil_func.config.flat import flat
from cil_func.errors import ConfigError, DiskError, NonFiniteError
from cil_func.studies import search, search_space, search_study, sweep

pytest.importorskip("optuna")

RATES = "optim.learning_rate=log 0.01..0.3"


@pytest.mark.parametrize(
    ("text", "axis", "ends"),
    [
        (RATES, ("optim.learning_rate", "log", 0.01, 0.3, ()), ("0.01", "0.3")),
        ("optim.momentum = 0.5..0.9", ("optim.momentum", "uniform", 0.5, 0.9, ()), ("0.5", "0.9")),
        ("optim.epochs=int 5..40", ("optim.epochs", "int", 5, 40, ()), ("5", "40")),
        ("optim.weight_decay=log 1e-5..1e-3", ("optim.weight_decay", "log", 1e-5, 1e-3, ()), ("1e-05", "0.001")),
        ("method.align=true,false", ("method.align", "choice", 0, 0, ("true", "false")), ("true", "false")),
        ("optim.milestones=[1, 2],[3]", ("optim.milestones", "choice", 0, 0, ("[1, 2]", "[3]")), ("[1, 2]", "[3]")),
    ],
)
def test_the_forms_of_a_range(text, axis, ends):
    [found] = search_space.parse([text])
    assert tuple(found) == axis and found.ends == ends


SEARCH = ["--search", RATES, "--trials", "3"]
KEPT = ["--set", "data.validation=0.2"]
MISTAKES = [
    (["--search", "optim.learning_rate", "--trials", "3"], "write --search 'table.key=RANGE'"),
    (["--search", "optim.learning_rate=0.3..0.01", *SEARCH[2:], *KEPT], "write the smaller number first"),
    (["--search", "optim.learning_rate=log 0..1", *SEARCH[2:], *KEPT], "has to begin above 0"),
    (["--search", "optim.epochs=int 1..2.5", *SEARCH[2:], *KEPT], "give whole numbers"),
    (["--search", "optim.learning_rate=0.1...0.3", *SEARCH[2:], *KEPT], "is no range"),
    (["--search", "optim.name=sgd", *SEARCH[2:], *KEPT], "give two or more values"),
    ([*SEARCH, "--search", RATES, *KEPT], "comes twice"),
    (["--search", "optim.lr=0.1,0.2", *SEARCH[2:], *KEPT], "optim.lr: unknown key"),
    (["--search", "optim.epochs=0.5..2", *SEARCH[2:], *KEPT], "optim.epochs: 0.5 is not allowed"),
    (["--search", "data.increment=1,2", *SEARCH[2:], *KEPT], "compare it by --grid"),
    (["--search", "data .tests_on=test,validation", *SEARCH[2:], *KEPT], "data.tests_on: trials have to differ"),
    (["--search", "run .seed=1,2", *SEARCH[2:], *KEPT], "compare it by --grid"),
    ([*SEARCH, "--search", "optim. learning_rate=0.1,0.2", *KEPT], "optim.learning_rate: comes twice"),
    (SEARCH, "data.validation = 0, so values would be chosen by the test images"),
    ([*SEARCH[:2], *KEPT], "--trials 0"),
    ([*SEARCH, *KEPT, "--round", "0"], "--round 0"),
    ([*SEARCH, *KEPT, "--grid", "optim.epochs=1,2"], "--search and --grid"),
    ([*SEARCH, *KEPT, "--print"], "--search and --print"),
    (["--search", "method.kd_weight=1,2", *SEARCH[2:], "--first-phase"], "has no effect in phase 0"),
    (["--search", "memory.size=10,20", *SEARCH[2:], "--first-phase"], "whose exemplars serve later phases"),
    (["--search", "optim.bias.epochs=1,2", *SEARCH[2:], "--first-phase", "--set", "method.name=bic"],
     "has no effect in phase 0, which has no stage bias"),
    ([*SEARCH, "--first-phase", "--set", "optim.first_phase.learning_rate=0.1"], "optim.first_phase.learning_rate"),
    (["--search", "optim.options.nesterov=true,false", *SEARCH[2:], "--first-phase", "--set",
      "optim.first_phase.options={nesterov=true}"], "search optim.first_phase.options.nesterov"),
    (["--search", "optim.milestones=[1],[2]", *SEARCH[2:], "--first-phase", "--set", "optim.schedule=milestones",
      "--set", "optim.milestones=[1]", "--set", "optim.first_phase.schedule=constant"],
     "phase 0, whose optimiser and schedule don't use it"),
    (["--search", "optim.options.nesterov=true,false", *SEARCH[2:], "--first-phase", "--set",
      "optim.first_phase.name=adamw"], "phase 0, whose optimiser and schedule don't use it"),
    (["--trials", "3"], "--trials belongs to --search"), (["--first-phase"], "--first-phase belongs to --search"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_a_mistake_is_one_line_and_nothing_begins(flags, words, tmp_path, capsys):
    assert sweep.main([str(tmp_path / "none"), *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0] and not (tmp_path / "none").exists()


def test_without_optuna_the_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search_study, "find_spec", lambda name: None)
    assert sweep.main([str(tmp_path / "none"), *SEARCH, *KEPT]) == 2
    assert "pip install optuna" in capsys.readouterr().err and not (tmp_path / "none").exists()


class FakeRuns:
    """Stands for `sweep_jobs.train`: a run's accuracy follows from its settings.

    stop_after: raises after so many runs. failing: the runs that end with a loss that is not finite.
    """

    def __init__(self, stop_after=99, failing=()):
        self.stop_after, self.failing, self.trained, self.phases = stop_after, failing, [], {}

    def __call__(self, jobs):
        ended = {}
        for job in jobs:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append(job.name)
            settings = [job.arguments[at + 1] for at, word in enumerate(job.arguments) if word == "--set"]
            made = config.load("digits", settings)
            self.phases[job.name] = made.data.phases
            assert (made.data.tests_on == "test") is job.name.startswith("winner")
            assert (made.data.validation == 0) is job.name.startswith("winner")
            ended[job.name] = 4 if job.name in self.failing else 0
            if not ended[job.name]:
                finished(job, made, 90 - abs(math.log10(made.optim.learning_rate / 0.1)) - 0.1 * made.run.seed)
        return ended


def finished(job, made, average):
    directory = job.directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(config.to_toml(made))
    (directory / "status.json").write_text('{"state": "finished"}')
    results = {"average_incremental_accuracy": average, "last_accuracy": average, "forgetting": None}
    (directory / "results.json").write_text(json.dumps(results))


def options(directory, **more):
    given = {
        "directory": directory, "config": "digits", "set": KEPT[1:], "search": [RATES], "trials": 14, "round": 4,
        "first_phase": False, "grid": [], "print": False,
    }  # fmt: skip
    return argparse.Namespace(**(given | more))


def winners(directory):
    best = json.loads((directory / "table.json").read_text())["best"]
    return [f"winner-{best:03}_seed-{seed}" for seed in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory, lines, names of the runs) of a search that nothing happened to."""
    directory, said, runs = tmp_path_factory.mktemp("search") / "whole", [], FakeRuns()
    assert search.run(options(directory), ["0", "1"], [], train=runs, tell=said.append) == 0
    return directory, said, runs.trained


def test_the_best_trial_is_tested_and_no_other(whole):
    directory, said, trained = whole
    assert trained == [*(f"trial-{number:03}" for number in range(14)), *winners(directory)]
    table = json.loads((directory / "table.json").read_text())
    rates = [float(each["values"]["optim.learning_rate"]) for each in table["trials"]]
    assert all(0.01 <= rate <= 0.3 for rate in rates) and len(set(rates)) == 14
    nearest = min(range(14), key=lambda number: abs(math.log10(rates[number] / 0.1)))
    assert table["best"] == nearest and table["winner"]["n"] == 2
    text = (directory / "table.md").read_text()
    assert f"| **{nearest}** | {table['trials'][nearest]['values']['optim.learning_rate']} |" in text
    assert f"Chosen: trial {nearest}, by the average incremental accuracy of all phases on 20 % of each class" in text
    assert f"| `trial {nearest}` | 2 |" in text and text in said[-1]


@pytest.mark.parametrize("stop_after", [0, 1, 5, 13, 14, 15])
def test_a_killed_search_ends_in_the_same_table(stop_after, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search.run(options(tmp_path), ["0", "1"], [], train=FakeRuns(stop_after), tell=lambda line: None)
    again = FakeRuns()
    assert search.run(options(tmp_path), ["0", "1"], [], train=again, tell=lambda line: None) == 0
    assert len(again.trained) == 16 - stop_after
    assert (tmp_path / "table.md").read_text() == (whole[0] / "table.md").read_text()


def test_more_trials_go_on_and_other_values_are_refused(whole, tmp_path):
    runs = FakeRuns()
    search.run(options(tmp_path, trials=3), [], [], train=runs, tell=lambda line: None)
    first = json.loads((tmp_path / "table.json").read_text())["best"]
    search.run(options(tmp_path, trials=14), ["0", "1"], [], train=runs, tell=lambda line: None)
    now, before = ((directory / "table.md").read_text() for directory in (tmp_path, whole[0]))
    again = f"images again, after those of trial {first} in another search:"
    assert now == before.replace("images once:", again)
    assert now != before
    for change, key in (
        ({"search": [RATES, "optim.momentum=0..0.9"]}, "search"), ({"round": 5}, "round"),
        ({"set": ["data.validation=0.1"]}, "data.validation"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"holds another search: {key} differs"):
            search.run(options(tmp_path, **change), [], [], train=runs, tell=lambda line: None)


def test_fewer_trials_say_that_one_of_more_was_tested_before(tmp_path):
    """Whose row isn't in the table."""
    runs = FakeRuns()
    search.run(options(tmp_path), [], [], train=runs, tell=lambda line: None)
    first = json.loads((tmp_path / "table.json").read_text())["best"]
    assert first > 1
    search.run(options(tmp_path, trials=2), ["0"], [], train=runs, tell=lambda line: None)
    assert f"images again, after those of trial {first} in another search:" in (tmp_path / "table.md").read_text()
    (tmp_path / "winner-1000_seed-0").mkdir()
    (tmp_path / "winner-old").mkdir()
    search.run(options(tmp_path, trials=2), ["0"], [], train=runs, tell=lambda line: None)
    assert json.loads((tmp_path / "table.json").read_text())["tested_before"] == [first, 1000]


def test_a_winner_is_not_trained_where_another_run_is(tmp_path):
    for number in range(3):
        (tmp_path / f"winner-{number:03}").mkdir()
        (tmp_path / f"winner-{number:03}" / "config.toml").write_text(
            config.to_toml(config.load("digits", ["run.seed=9"]))
        )
    runs = FakeRuns()
    with pytest.raises(ConfigError, match=r"holds a run of another configuration: .* or another DIR$"):
        search.run(options(tmp_path, trials=3), [], [], train=runs, tell=lambda line: None)
    assert len(runs.trained) == 3


def test_a_trial_of_another_search_is_not_taken(tmp_path):
    """Left behind without its journal: its number has other values now."""
    search.run(options(tmp_path, trials=1), [], [], train=FakeRuns(), tell=lambda line: None)
    (tmp_path / search_study.JOURNAL).unlink()
    runs, given = FakeRuns(), options(tmp_path, trials=1, search=["optim.momentum=0.1..0.5"])
    words = r"trial-000 holds a run of another configuration: optim.learning_rate is .* or another DIR$"
    with pytest.raises(ConfigError, match=words):
        search.run(given, [], [], train=runs, tell=lambda line: None)
    assert not runs.trained


def test_a_trial_whose_loss_is_not_finite_counts_as_failed(tmp_path):
    failing = [f"trial-{number:03}" for number in range(3)]
    runs = FakeRuns(failing=failing[1:])
    assert search.run(options(tmp_path, trials=3), [], [], train=runs, tell=lambda line: None) == 0
    assert (tmp_path / "table.md").read_text().count("| failed |") == 2
    with pytest.raises(NonFiniteError, match="all 3 trials"):
        search.run(options(tmp_path / "b", trials=3), [], [], train=FakeRuns(failing=failing), tell=lambda line: None)


def test_a_run_that_fails_otherwise_ends_the_search_with_its_status(tmp_path):
    assert search.run(options(tmp_path), [], [], train=lambda jobs: {jobs[0].name: 3}, tell=lambda line: None) == 3


def test_values_that_do_not_go_together_are_a_failed_trial(tmp_path):
    """The ends of both ranges are allowed, convex with a weight above 1 is not. Such a trial isn't trained."""
    both = ["method.kd_combination=sum,convex", "method.kd_weight=0.5..3"]
    runs, said = FakeRuns(), []
    assert search.run(options(tmp_path, search=both, trials=8), [], [], train=runs, tell=said.append) == 0
    refused = [line.partition(":")[0] for line in said if "the trial counts as failed" in line]
    table = json.loads((tmp_path / "table.json").read_text())
    assert 0 < len(refused) < 8 and not {*refused} & {*runs.trained}
    assert refused == [f"trial-{each['trial']:03}" for each in table["trials"] if each["failed"]]
    assert all("method.kd_weight" in line for line in said if line.partition(":")[0] in refused)


def test_mistakes_in_the_methods_options_are_no_failed_trials(tmp_path, capsys):
    """They are found before anything is written, as a user's own file that isn't there is."""
    for flags, words in (
        (["--set", "method.options.strength=1"], "strength"), (["--set", "method.name=gone.py:make"], "gone.py"),
        (["--search", "method.options.none=1,2"], "none"),
    ):  # fmt: skip
        assert sweep.main([str(tmp_path / "none"), *SEARCH, *KEPT, *flags]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_phases_of_the_user_hold_for_the_winner_too(tmp_path):
    few, runs = [*KEPT[1:], "data.phases=2"], FakeRuns()
    assert search.run(options(tmp_path, set=few, trials=2), [], [], train=runs, tell=lambda line: None) == 0
    assert runs.phases == {"trial-000": 2, "trial-001": 2, runs.trained[-1]: 2}
    assert "by the average incremental accuracy of the first 2 phases on 20 %" in (tmp_path / "table.md").read_text()
    runs = FakeRuns()
    search.run(options(tmp_path / "b", set=few, trials=1, first_phase=True), [], [], train=runs, tell=lambda line: None)
    assert runs.phases == {"trial-000": 1, "winner-000": 2}


def test_a_key_of_a_stage_can_be_searched(tmp_path):
    given = options(tmp_path, set=[*KEPT[1:], "method.name=podnet"], search=["optim.balance.epochs=int 1..5"], trials=2)
    assert search.run(given, [], [], train=FakeRuns(), tell=lambda line: None) == 0
    said = []
    given = options(tmp_path / "b", search=["optim.balance.epochs=int 1..5"], trials=1)
    assert search.run(given, [], [], train=FakeRuns(), tell=said.append) == 0
    assert said[0].startswith("warning: optim.balance.epochs has no effect")


@pytest.mark.parametrize("methods", ["replay,wa", "wa,replay"])
def test_a_key_without_effect_is_told_with_the_values_by_which_it_has_none(methods, tmp_path):
    said, given = [], options(tmp_path, search=[f"method.name={methods}", "method.align=true,false"], trials=1)
    assert search.run(given, [], [], train=FakeRuns(), tell=said.append) == 0
    assert [line for line in said if line.startswith("warning")] == [
        'warning: method.align has no effect with method.name = "replay"'
    ]


def test_exemplars_by_whose_means_a_method_predicts_can_be_searched_in_phase_0(tmp_path):
    """Of icarl, or of some trials; `test_a_mistake_is_one_line_and_nothing_begins` has the methods without."""
    for name, more in (("icarl", []), ("wa", ["method.name=wa,icarl"])):
        given = options(
            tmp_path / name, set=[*KEPT[1:], f"method.name={name}"], search=["memory.size=10,20", *more], trials=1,
            first_phase=True,
        )  # fmt: skip
        assert search.run(given, [], [], train=FakeRuns(), tell=lambda line: None) == 0


def test_a_key_that_another_one_makes_phase_0_use_can_be_searched(tmp_path):
    both = ["optim.first_phase.schedule=constant,milestones", "optim.milestones=[1],[2]"]
    given = options(tmp_path, search=both, trials=1, first_phase=True)
    assert search.run(given, [], [], train=FakeRuns(), tell=lambda line: None) == 0


def test_a_search_of_an_older_version_goes_on_on_another_machine(tmp_path):
    """Its plan has keys that now may differ, and lacks one that has come since."""
    path, plan = tmp_path / "old", {**flat(config.load("digits", ["data.workers=3"]))}
    axes = search_space.parse([RATES])
    search_study.opened(path, axes, {"config": {key: value for key, value in plan.items() if key != "data.subset"}})
    now = flat(config.load("digits", ["data.workers=2", "data.packed=/elsewhere"]))
    search_study.opened(path, axes, {"config": now})
    search_study.opened(path, axes, {"config": {key: now[key] for key in now if key not in search_study.MACHINE}})
    with pytest.raises(ConfigError, match=r"data\.subset differs"):
        search_study.opened(path, axes, {"config": now | {"data.subset": "names.txt"}})


def journal(directory):
    return search_study.opened(directory, search_space.parse([RATES]), {"config": {}})


def test_a_full_disk_leaves_a_journal_to_go_on_with(tmp_path, monkeypatch):
    """A line that is written in part is cut off, at once or, after a kill, when the journal is opened again."""
    from optuna.storages.journal import _file

    study, path = journal(tmp_path / "a"), tmp_path / "a" / search_study.JOURNAL
    study.propose(0, 2)
    expected = [trial.values for trial in study.trials()]
    study, path = journal(tmp_path / "b"), tmp_path / "b" / search_study.JOURNAL
    study.propose(0, 1)
    whole = path.read_bytes()

    def full(descriptor):
        os.ftruncate(descriptor, len(whole) + 20)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_file.os, "fsync", full)
        for write in (lambda: study.propose(1, 2), lambda: journal(tmp_path / "b").record(0, 50.0)):
            with pytest.raises(DiskError, match=r"search\.journal: No space left"):
                write()
            assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"op_code":4,"wor')
    study = journal(tmp_path / "b")
    study.record(0, 50.0)
    study.propose(1, 2)
    assert [(trial.values, trial.value) for trial in study.trials()] == [(expected[0], 50.0), (expected[1], None)]


def test_the_lock_of_a_killed_process_ends(tmp_path, monkeypatch):
    """optuna's own, which is a file: here after 3 s in place of 30. The directory's name may be a relative one."""
    from optuna.storages.journal import JournalFileOpenLock

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JournalFileOpenLock.__init__, "__defaults__", (3,))
    assert journal(Path("search"))._study._storage._backend._lock.acquire()  # and that process is gone
    assert Path("search/search.journal.lock").exists()  # a link to a relative path would lead nowhere, and never end
    study = journal(Path("search"))
    study.propose(0, 1)
    assert len(study.trials()) == 1 and not Path("search/search.journal.lock").exists()


def test_real_trials_of_the_first_phase(tmp_path, monkeypatch, capsys):
    """In this process, so that nothing has to be imported three times."""
    tiny.shallow(monkeypatch)
    monkeypatch.setattr(
        search.sweep_jobs, "train", lambda jobs, **more: {job.name: train.main(job.arguments) for job in jobs}
    )
    settings = tiny.settings("run.compile=false", "optim.epochs=1", "data.increment=2", folder=tiny.images(4, 6))
    flags = [word for each in settings for word in ("--set", each)]
    found = ["--search", "optim.learning_rate=0.001,0.1", "--trials", "2", "--first-phase"]
    assert sweep.main([str(tmp_path), *flags, *found]) == 0
    assert "of phase 0 alone on 10 % of each class" in capsys.readouterr().out
    for name in ("trial-000", "trial-001"):
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert len(results["phases"]) == 1 and results["config"]["data"]["tests_on"] == "validation"
    [directory] = tmp_path.glob("winner-*")
    winner = json.loads((directory / "results.json").read_text())
    assert len(winner["phases"]) == 2 and winner["config"]["data"]["validation"] == 0
