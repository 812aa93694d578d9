"""Sweeps: which runs there are, what the table says, and real processes that are stopped and gone on with."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import one_conv
import pytest
import tiny

from cil_func import config
from cil_func.errors import ConfigError, DiskError
from cil_func.studies import sweep, sweep_jobs, sweep_plan, sweep_table

TINY = tiny.settings(
    "run.compile=false", "optim.epochs=1", f"model.backbone={one_conv.NAME}", "data.increment=2",
    folder=tiny.images(4, 6),
)  # fmt: skip


def test_the_runs_are_all_combinations_group_after_group():
    found = sweep_plan.runs(["method.name=wa,replay", "optim.learning_rate=0.1, 0.2"], ["0", "1"], [])
    assert len(found) == 8 and found[0].name == "name-wa_learning_rate-0.1_seed-0"
    assert found[1].settings == ("method.name=wa", "optim.learning_rate=0.1", "run.seed=1")
    assert [run.group for run in found[::2]] == [
        (f"method.name={name}", f"optim.learning_rate={rate}") for name in ("wa", "replay") for rate in ("0.1", "0.2")
    ]
    [ordered] = sweep_plan.runs([], [], ["3"])
    assert ordered.settings == ("data.class_order=shuffled", "data.order_seed=3") and ordered.name == "order-3"
    [lists] = sweep_plan.runs(["optim.milestones=[1, 2]"], [], [])
    assert lists.group == ("optim.milestones=[1, 2]",)


@pytest.mark.parametrize(
    ("grid", "seeds", "words"),
    [
        (["lr=1"], [], "write --grid table.key=v1,v2"), (["optim.epochs"], [], "write --grid table.key=v1,v2"),
        (["optim.epochs=1,,2"], [], "write --grid table.key=v1,v2"), (["optim.epochs=1,1"], [], "a value comes twice"),
        (["run.seed=1,2"], ["0"], "run.seed comes twice"),
        (["optim.epochs=1", "optim.epochs=2"], [], "optim.epochs comes twice"),
    ],
)  # fmt: skip
def test_a_grid_that_can_not_be_is_one_line(grid, seeds, words):
    with pytest.raises(ConfigError, match=words):
        sweep_plan.runs(grid, seeds, [])


def test_mistakes_are_found_before_anything_is_trained(tmp_path, capsys):
    for flags, words in (
        (["--grid", "method.name=wa,wb"], "method.name"), (["--seeds", "0,x"], "--seeds 0,x"),
        (["--seeds", "0,0"], "each once"), (["--jobs", "0"], "--jobs 0"), (["--config", "nothing"], "no such file"),
        (["--set", "optim.epoch=1"], "--set optim.epoch: "), (["--grid", "optim.epoch=1,2"], "--grid optim.epoch: "),
    ):  # fmt: skip
        assert sweep.main([str(tmp_path / "none"), *flags]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and words in said[0]
    assert not (tmp_path / "none").exists()


def finished(directory, average, last):
    directory.mkdir(parents=True)
    (directory / "status.json").write_text('{"state": "finished"}')
    results = {"average_incremental_accuracy": average, "last_accuracy": last, "forgetting": None}
    (directory / "results.json").write_text(json.dumps(results))


def test_the_table_has_means_deviations_and_paired_differences(tmp_path):
    planned = sweep_plan.runs(["method.name=wa,replay"], ["0", "1", "2"], [])
    numbers = {"name-wa": [(90, 80), (92, 84), (94, 82)], "name-replay": [(70, 30), (71, 38), None]}
    for name, rows in numbers.items():
        for seed, row in enumerate(rows):
            if row:
                finished(tmp_path / f"{name}_seed-{seed}", *row)
    first, second = sweep_table.collect(tmp_path, planned)
    assert first["average_incremental_accuracy"]["mean"] == 92 and first["last_accuracy"]["deviation"] == 2
    assert first["last_accuracy"]["difference"] is None and (second["n"], second["of"]) == (2, 3)
    difference = second["last_accuracy"]["difference"]  # 30 - 80 and 38 - 84
    assert (difference["mean"], difference["n"]) == (-48, 2)
    assert difference["deviation"] == pytest.approx(2 * 2**0.5)
    assert sweep_table.markdown([first, second]).splitlines()[2:] == [
        "| `name=wa` | 3 | 92.0 ± 2.0 | 82.0 ± 2.0 | - | - |",
        "| `name=replay` | 2 of 3 | 70.5 ± 0.7 | 34.0 ± 5.7 | - | -48.0 ± 2.8 (n = 2) |",
    ]


def test_printed_commands_are_those_of_train(tmp_path, capsys):
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1,2", "--set", "memory.size=20", "--print"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    words = shlex.split(second)
    assert words[:4] == ["python", "-m", "cil_func", "train"] and words[-1] == str(tmp_path / "epochs-2")
    assert words[4:6] == ["--config", "digits"] and "memory.size=20" in words and "optim.epochs=2" in words
    assert not list(tmp_path.iterdir()) and "optim.epochs=1" in first


def test_a_directory_with_another_run_is_refused(tmp_path, capsys):
    (tmp_path / "epochs-1").mkdir()
    (tmp_path / "epochs-1" / "config.toml").write_text(config.to_toml(config.load("digits", ["run.seed=9"])))
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1"]) == 2
    err = capsys.readouterr().err
    assert "holds a run of another configuration" in err and err.endswith("give the same, or another DIR\n")
    (tmp_path / "epochs-1" / "config.toml").rename(tmp_path / "epochs-1" / "results.json")
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1"]) == 2
    err = capsys.readouterr().err
    assert "holds results.json and no config.toml" in err and err.endswith("choose another DIR\n")


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    flags = [word for setting in TINY for word in ("--set", setting)]
    grid = ["--grid", "memory.size=3,20", "--grid", "method.name=wa"]  # 3 exemplars can't be had of four classes
    assert sweep.main([str(tmp_path), *flags, *grid]) == 3
    said = capsys.readouterr().out
    assert "size-3_name-wa: failed with exit status 3" in said and "memory.size" in said
    assert "size-20_name-wa: finished" in said and "| `size=20, name=wa` | 1 |" in said
    table = (tmp_path / "table.md").read_text()
    assert sweep.main([str(tmp_path), *flags, *grid]) == 3  # the finished one isn't trained again
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == table


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_signal_reaches_the_runs_and_the_command_says_that_it_goes_on(tmp_path):
    """The runs are stand-ins that end when they are told."""
    code = (
        "import sys; from cil_func.studies import sweep, sweep_jobs\n"
        "sweep_jobs.sys = type('', (), {'executable': sys.argv[1]})\n"
        f"sys.exit(sweep.main([{str(tmp_path)!r}, '--seeds', '0,1', '--jobs', '2']))"
    )
    stand_in = tmp_path / "stand-in"
    stand_in.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")
    stand_in.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(stand_in)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    logs = tmp_path / "logs"
    while not logs.is_dir() or [log.read_text() for log in logs.iterdir()] != ["begun\n"] * 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and "the same command goes on" in said


def test_a_run_that_was_stopped_has_not_failed(tmp_path):
    log = tmp_path / "log"
    log.write_text("phase 0\ntrain.py: stopped by SIGTERM and saved; the same command goes on from there\n")
    for status, word in ((143, "stopped"), (130, "stopped"), (-9, "failed"), (2, "failed"), (1, "failed")):
        how = sweep_jobs._how(status, log)
        assert how == f"{word} with exit status {status}: {log.read_text().splitlines()[1]}; see {log}"


def test_jobs_are_at_most_so_many_at_once(tmp_path, monkeypatch):
    most, now = [], []

    class Fake:
        returncode = 0

        def __init__(self):
            now.append(self)
            most.append(len(now))
            self.polls = 0

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            now.remove(self)
            return 0

    monkeypatch.setattr(sweep_jobs, "_start", lambda job, threads: Fake())
    monkeypatch.setattr(sweep_jobs, "_POLL_SECONDS", 0)
    jobs = [sweep_jobs.Job(str(number), [], tmp_path / "log") for number in range(5)]
    assert sweep_jobs.train(jobs, at_once=2, threads=1, tell=lambda line: None) == dict.fromkeys("01234", 0)
    assert max(most) == 2


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert sweep.main([str(tmp_path / "file"), "--seeds", "0"]) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sweep: {tmp_path / 'file' / 'logs'}: Not a directory; ")


def test_a_job_that_can_not_be_started_stops_those_that_run(tmp_path, monkeypatch):
    stand_in = tmp_path / "stand-in"
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sweep_jobs.sys, "executable", str(stand_in))
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(sweep_jobs.subprocess, "Popen", lambda *a, **b: started.append(popen(*a, **b)) or started[-1])
    jobs = [sweep_jobs.Job(name, [], tmp_path / name / "log") for name in ("first", "second")]
    (tmp_path / "second").write_text("a file")
    with pytest.raises(DiskError, match="second"):
        sweep_jobs.train(jobs, at_once=2, threads=1, tell=lambda line: None)
    assert [process.returncode for process in started] == [-signal.SIGTERM]
