"""The processes of a sweep: how many at once, signals, runs of other processes, an output that nobody reads."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from cil_func.errors import DiskError
from cil_func.runs.lock import lock_directory
from cil_func.studies import sweep_jobs


def command(directory, does, *flags):
    """A sweep of two seeds in a process of its own, whose runs are stand-ins: a shell script that does this."""
    code = (
        "import sys; from cil_func.studies import sweep, sweep_jobs\n"
        "sweep_jobs.sys.executable = sys.argv[1]\n"
        f"sys.exit(sweep.main([{str(directory)!r}, '--seeds', '0,1', *sys.argv[2:]]))"
    )
    stand_in = directory / "stand-in"
    stand_in.write_text(f"#!/bin/sh\n{does}\n")
    stand_in.chmod(0o755)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(stand_in), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_reaches_the_runs_and_the_command_says_that_it_goes_on(number, status, tmp_path):
    """The runs are stand-ins that end when they are told. SIGHUP is what a terminal sends that is closed."""
    process = command(tmp_path, "echo begun\nexec sleep 60", "--jobs", "2")
    logs = tmp_path / "logs"
    while not logs.is_dir() or [log.read_text() for log in logs.iterdir()] != ["begun\n"] * 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status and "the same command goes on" in said


def test_runs_go_on_if_nobody_reads_the_output(tmp_path):
    """As with `| head -1`. The stand-ins leave no results, which the status says."""
    process = command(tmp_path, "exit 0")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(30) == 5 and len(list((tmp_path / "logs").iterdir())) == 2
    assert said.count("\n") == 1 and "seed-0 is finished, and its results.json lacks" in said
    assert "0 of 2" in (tmp_path / "table.md").read_text()


def test_a_run_that_was_stopped_has_not_failed(tmp_path):
    log = tmp_path / "log"
    log.write_text("phase 0\ntrain.py: stopped by SIGTERM and saved; the same command goes on from there\n")
    for status, word in ((143, "stopped"), (130, "stopped"), (-9, "failed"), (2, "failed"), (1, "failed")):
        how = sweep_jobs._how(status, log)
        assert how == f"{word} with exit status {status}: {log.read_text().splitlines()[1]}; see {log}"


def test_a_log_that_is_gone_does_not_end_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "_start", lambda job, threads, gpu: Ended(3))
    monkeypatch.setattr(sweep_jobs, "_POLL_SECONDS", 0)
    jobs, said = [sweep_jobs.Job(name, [], tmp_path) for name in "ab"], []
    assert sweep_jobs.train(jobs, at_once=1, threads=1, tell=said.append) == {"a": 3, "b": 3}
    assert f"a: failed with exit status 3: what it printed can't be read; see {jobs[0].log}" in said


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

    monkeypatch.setattr(sweep_jobs, "_start", lambda job, threads, gpu: Fake())
    monkeypatch.setattr(sweep_jobs, "_POLL_SECONDS", 0)
    jobs = [sweep_jobs.Job(str(number), [], tmp_path) for number in range(5)]
    assert sweep_jobs.train(jobs, at_once=2, threads=1, tell=lambda line: None) == dict.fromkeys("01234", 0)
    assert max(most) == 2


class Ended:
    """A process that has ended."""

    def __init__(self, returncode):
        self.returncode = returncode

    def poll(self):
        return self.returncode


def test_a_run_of_another_process_is_waited_for_behind_the_others(tmp_path, monkeypatch):
    """The first one is finished there, the second killed there, so that it goes on here; the third is in use twice."""
    started, said, locks = [], [], [ExitStack(), ExitStack()]
    for name, lock in zip("ab", locks, strict=True):
        (tmp_path / name).mkdir()
        lock.enter_context(lock_directory(tmp_path / name))

    def start(job, threads, gpu):
        started.append(job.name)
        if job.name == "d":  # the last of those that are free
            (tmp_path / "a/status.json").write_text(json.dumps({"state": "finished", "exit_code": 0}))
            (tmp_path / "b/status.json").write_text(json.dumps({"state": "running", "exit_code": None}))
            for lock in locks:
                lock.close()
        return Ended(6 if job.name == "c" and started.count("c") < 3 else 0)

    monkeypatch.setattr(sweep_jobs, "_start", start)
    monkeypatch.setattr(sweep_jobs, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(sweep_jobs, "_PATIENCE", 0.01)
    jobs = [sweep_jobs.Job(name, [], tmp_path) for name in "abcd"]
    assert sweep_jobs.train(jobs, at_once=1, threads=1, tell=said.append) == dict.fromkeys("abcd", 0)
    assert started[0] == "c" and Counter(started) == {"b": 1, "c": 3, "d": 1}
    assert Counter(line for line in said if "waiting" in line) == {
        f"{name}: another process trains it; waiting": 1 for name in "abc"
    }
    assert "a: another process has trained it" in said and any(line.startswith("b: begins") for line in said)


def test_a_job_that_can_not_be_started_stops_those_that_run(tmp_path, monkeypatch):
    stand_in = tmp_path / "stand-in"
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sweep_jobs.sys, "executable", str(stand_in))
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(sweep_jobs.subprocess, "Popen", lambda *a, **b: started.append(popen(*a, **b)) or started[-1])
    jobs = [sweep_jobs.Job(name, [], tmp_path / name) for name in ("first", "second")]
    (tmp_path / "second").write_text("a file")
    with pytest.raises(DiskError, match="second"):
        sweep_jobs.train(jobs, at_once=2, threads=1, tell=lambda line: None)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_each_of_several_gpus_gets_its_own_processes(tmp_path, monkeypatch):
    shown, ends = [], []

    class Process:
        """Ends when the test says so."""

        def __init__(self, words, *, env, **more):
            shown.append(env.get("CUDA_VISIBLE_DEVICES"))
            self.number, self.returncode = len(shown), 0

        def poll(self):
            return 0 if self.number in ends or len(shown) >= 4 else None

    monkeypatch.setattr(sweep_jobs.subprocess, "Popen", Process)
    monkeypatch.setattr(sweep_jobs, "_POLL_SECONDS", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    every = (1, 2, 3, 4)
    for names, at_once, ending, expected in (
        (["0", "1"], 2, every, ["0", "1", "0", "1"]), (["7"], 2, every, ["7"] * 4), ([], 2, every, [None] * 4),
        (["0", "1"], 1, every, [None] * 4), (["0", "1"], 4, every, ["0", "1", "0", "1"]),
        (["0", "1"], 2, (2, 3), ["0", "1", "1", "1"]),  # the first one has GPU 0 all the time
        (["0", "1"], 2, (1, 3), ["0", "1", "0", "0"]), (["0", "1", "2"], 3, (2, 4), ["0", "1", "2", "1"]),
    ):  # fmt: skip
        shown.clear()
        ends[:] = ending
        monkeypatch.setattr(sweep_jobs.gpus, "visible", lambda names=names: names)
        jobs = [sweep_jobs.Job(f"run{number}", [], tmp_path) for number in range(4)]
        assert set(sweep_jobs.train(jobs, at_once=at_once, threads=0, tell=lambda line: None).values()) == {0}
        assert shown == expected
