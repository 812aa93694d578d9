"""Runs of several real processes: the same as one, and what is left when one of them fails."""

import json
import os
import signal
import time

import processes
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import lab
from cil_func import checkpoint

FAULTY = "benchmarks/faulty.py"
BORDERS = 26  # of phase 0: one before each of 15 steps, three at its end; then into phase 1


def small(out, *more: str) -> list[str]:
    """WA on the digits in three phases: batches of 5 groups of 8 images."""
    settings = (
        "data.increment=4", "optim.epochs=1", "optim.batch_size=40", "optim.norm_batch=8", "run.precision=float64",
        "run.threads=1", "memory.size=50", *more,
    )  # fmt: skip
    return ["--out", str(out), *(word for setting in settings for word in ("--set", setting))]


def exemplars(directory) -> dict:
    found, problems = checkpoint.newest(directory / "checkpoints")
    assert not problems
    return {label: rows.tolist() for label, rows in found.tree["exemplars"].items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes") / "alone"
    done = processes.run(processes.command(0, *small(directory)))
    assert done.returncode == 0, done.stderr
    return directory


def check_same(directory, alone):
    """Every accuracy, every exemplar, and the weights up to float64's rounding."""
    mine, theirs = processes.results(directory), processes.results(alone)
    for found in (mine, theirs):
        found["config"]["run"].pop("timeout_seconds")
    for row in (*mine["phases"], *theirs["phases"]):  # a number that follows from the weights
        row["gamma"] = row["gamma"] and pytest.approx(row["gamma"], rel=1e-9)
    assert mine == theirs
    assert exemplars(directory) == exemplars(alone) and len(exemplars(alone)) == 10
    weights = [load_file(path / "model.safetensors") for path in (directory, alone)]
    for name, leaf in weights[1].items():
        scale = leaf.abs().max().item()
        torch.testing.assert_close(weights[0][name], leaf, rtol=1e-9, atol=1e-9 * scale, msg=name)


@pytest.mark.parametrize("count", [2, 3, 4])  # 5 groups: 3 and 2; 2, 2 and 1; 2, 2, 1 and none
def test_any_number_of_processes_learns_the_same(count, alone, tmp_path):
    done = processes.run(processes.command(count, *small(tmp_path / "run")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("average incremental accuracy") == 1  # only one of them prints
    check_same(tmp_path / "run", alone)
    environment = json.loads((tmp_path / "run/results.json").read_text())["environment"]
    assert environment["world_size"] == count and processes.status(tmp_path / "run")["state"] == "finished"


def test_two_machines_of_which_one_has_the_disk(alone, tmp_path):
    """Two launchers that meet on the loopback address; the second is told another directory, and leaves it empty."""
    port = processes.free_port()
    flags = ("--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test")
    machines = [
        processes.start(processes.command(1, *small(tmp_path / name), flags=flags)) for name in ("first", "second")
    ]
    ends = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    (written,) = [path for path in tmp_path.iterdir() if (path / "results.json").exists()]
    check_same(written, alone)
    assert not any(path.exists() for path in (tmp_path / "first", tmp_path / "second") if path != written)


def test_a_batch_that_can_not_be_shared_is_refused_once(tmp_path):
    words = small(tmp_path / "run", "optim.norm_batch=0")
    done = processes.run(processes.command(2, *words))
    assert done.returncode == 1  # torchrun's answer to everything
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    assert len(lines) == 1 and "optim.norm_batch=20" in lines[0]
    assert processes.status(tmp_path / "run")["exit_code"] == 2


# one of them fails


def start_faulty(
    directory, what: str, rank: int, *, timeout: int = 10, flags: tuple = (), once: str = "", at: int = BORDERS
):
    fault = {"what": what, "rank": rank, "at": at, "once": once}
    words = small(directory, f"run.timeout_seconds={timeout}")
    return processes.start(processes.command(2, *words, script=FAULTY, flags=flags), env={"FAULT": json.dumps(fault)})


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_raises_is_killed_stops_answering_or_hangs_takes_all_down_and_is_named(rank, tmp_path):
    """Within the timeout and the 35 s that torchrun may need to kill; the four at once, for they mostly wait."""
    began, timeout = time.monotonic(), 10
    messages = {
        "raise": f"rank {rank}: ZeroDivisionError: a bug", "SIGKILL": f"rank {rank} (", "SIGSTOP": f"rank {rank} (",
        "hang": f"rank {rank} (",
    }  # fmt: skip
    launchers = {what: start_faulty(tmp_path / what, what, rank, timeout=timeout) for what in messages}
    errors = {what: launcher.communicate(timeout=200)[1] for what, launcher in launchers.items()}
    taken = time.monotonic() - began
    for what, message in messages.items():
        status = processes.status(tmp_path / what)
        assert (status["state"], status["exit_code"]) == ("failed", 1), errors[what]
        assert status["message"].startswith(message)
        assert status["message"] in errors[what] or what == "raise"
        assert launchers[what].returncode == 1 and not lab.alive(tmp_path / what)
    assert "ZeroDivisionError: a bug" in errors["raise"]
    assert taken < timeout + 35 + 60  # and what four starts take on a busy machine


def test_a_process_that_was_killed_comes_back_with_the_launchers_help(tmp_path):
    """torchrun --max-restarts: the result is, bit by bit, that of two processes that nothing happened to."""
    undisturbed = processes.run(processes.command(2, *small(tmp_path / "plain", "run.timeout_seconds=10")))
    assert undisturbed.returncode == 0, undisturbed.stderr
    once = str(tmp_path / "once")
    launcher = start_faulty(tmp_path / "killed", "SIGKILL", 1, flags=("--max_restarts=1",), once=once)
    _, error = launcher.communicate(timeout=300)
    assert launcher.returncode == 0 and os.path.exists(once), error
    assert processes.results(tmp_path / "killed") == processes.results(tmp_path / "plain")
    model = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "plain")]
    assert model[0] == model[1]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_or_to_one_process_saves_and_stops_all(sent, code, tmp_path):
    """The launcher passes it on to all; and a process that got it itself tells the others by their next step.

    Outside the training it leaves at once, and takes the others with it: here after it selected exemplars.
    """
    one = start_faulty(tmp_path / "one", sent.name, 1)
    selecting = start_faulty(tmp_path / "selecting", sent.name, 1, at=17)
    all_of_them = processes.start(processes.command(2, *small(tmp_path / "all", "optim.epochs=50")))
    log = tmp_path / "all/metrics.jsonl"
    while not (log.exists() and '"epoch"' in log.read_text()):
        assert all_of_them.poll() is None
        time.sleep(0.1)
    all_of_them.send_signal(sent)
    for launcher, name in ((one, "one"), (all_of_them, "all"), (selecting, "selecting")):
        _, error = launcher.communicate(timeout=120)
        status = processes.status(tmp_path / name)
        assert (status["state"], status["exit_code"]) == ("stopped", code), error
        assert sent.name in status["message"] and "goes on" in status["message"]
        lines = [line for line in error.splitlines() if line.startswith("train.py:")]
        assert lines == [f"train.py: {status['message']}"]
        found, problems = checkpoint.newest(tmp_path / name / "checkpoints")
        assert found and not problems
    assert "(phase 1, epoch 0, step " in processes.status(tmp_path / "one")["message"]
    found, _ = checkpoint.newest(tmp_path / "selecting/checkpoints")
    assert found.record["training"]["epoch"] == 1 and found.record["select_seconds"] is None


def test_one_process_goes_on_with_what_two_began_and_two_find_it_finished(alone, tmp_path):
    launcher = start_faulty(tmp_path / "run", "SIGTERM", 0)
    launcher.communicate(timeout=120)
    assert processes.status(tmp_path / "run")["state"] == "stopped"
    words = small(tmp_path / "run", "run.timeout_seconds=10")
    done = processes.run(processes.command(0, *words))
    assert done.returncode == 0 and "going on from phase 1" in done.stdout, done.stderr
    check_same(tmp_path / "run", alone)
    again = processes.run(processes.command(2, *words))
    assert again.returncode == 0 and again.stdout.count("finished") == 1, again.stderr
