"""Runs of several real processes: the same as one, and what is left when one of them fails."""

import json
import os
import shutil
import signal
import time

import launching
import one_conv
import pytest
import tiny
import torch
from safetensors.torch import load_file

import train
from cil_func.runs import checkpoints

FAULTY = "benchmarks/reliability_helpers/train_with_fault.py"
BORDERS = 11  # of phase 0: one before each of 4 steps, three at its end; then into phase 1
BORDERS_OF_SELECT = 6  # the second of those three


def small(out, *more: str) -> list[str]:
    """WA in three phases: batches of 5 groups of 4 images; the last phase's last one has a single group."""
    return ["--out", str(out), *tiny.flags(
        "data.increment=4", "optim.epochs=1", "optim.batch_size=20", "optim.norm_batch=4", "run.precision=float64",
        "memory.size=50", f"model.backbone={one_conv.NAME}", *more,
    )]  # fmt: skip


def exemplars(directory) -> dict:
    found, problems = checkpoints.newest(directory / "checkpoints")
    assert not problems
    return {label: rows.tolist() for label, rows in found.tree["exemplars"].items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes") / "alone"
    assert train.main(small(directory)) == 0
    return directory


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(directory, how it ended) of two processes."""
    directory = tmp_path_factory.mktemp("processes") / "two"
    return directory, launching.run(launching.command(2, *small(directory)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """{signal: (directory, stderr)} of two processes of which one got the signal."""
    folder = tmp_path_factory.mktemp("processes")
    launchers = {name: start_faulty(folder / name, name, rank) for name, rank in (("SIGTERM", 1), ("SIGINT", 0))}
    return {name: (folder / name, launcher.communicate(timeout=200)[1]) for name, launcher in launchers.items()}


def check_same(directory, alone, *, same_storage=True):
    """Every accuracy, every exemplar, and the weights up to float64's rounding."""
    mine, theirs = launching.results(directory), launching.results(alone)
    for found in () if same_storage else (mine, theirs):
        for key in ("data_fingerprint", "tests_fingerprint", "class_tests"):
            del found[key]
        del found["config"]["data"]["storage"]
    for row in (*mine["phases"], *theirs["phases"]):  # numbers that follow from the weights
        row["gamma"] = row["gamma"] and pytest.approx(row["gamma"], rel=1e-9)
        row["calibration"]["ece"] = pytest.approx(row["calibration"]["ece"], rel=1e-9)
    assert mine == theirs
    assert exemplars(directory) == exemplars(alone) and len(exemplars(alone)) == 10
    weights = [load_file(path / "model.safetensors") for path in (directory, alone)]
    for name, leaf in weights[1].items():
        scale = leaf.abs().max().item()
        torch.testing.assert_close(weights[0][name], leaf, rtol=1e-9, atol=1e-9 * scale, msg=name)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """(launchers, directories, files whose time is when it happened, timeout) of eight runs that fail, by (what, rank).

    They mostly wait, so they begin with the first test of this file, and the last one looks at them.
    """
    root, timeout = tmp_path_factory.mktemp("failing"), 10
    cases = [(what, rank) for what in ("raise", "SIGKILL", "SIGSTOP", "hang") for rank in (0, 1)]
    folders = {case: root / "{} {}".format(*case) for case in cases}
    happened = {case: root / "{} {} happened".format(*case) for case in cases}
    timed = f"run.timeout_seconds={timeout}"
    launchers = {case: start_faulty(folders[case], *case, timed, once=str(happened[case])) for case in cases}
    yield launchers, folders, happened, timeout
    for launcher in launchers.values():
        if launcher.poll() is None:
            launcher.kill()


@pytest.mark.parametrize("count", [2, 3, 4])  # 5 groups: 3 and 2; 2, 2 and 1; 2, 2, 1 and none
def test_any_number_of_processes_learns_the_same(count, alone, failing, two, tmp_path):
    directory, done = two
    if count != 2:
        directory = tmp_path / "run"
        done = launching.run(launching.command(count, *small(directory)), by=launching.fork)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("average incremental accuracy") == 1  # only one of them prints
    check_same(directory, alone)
    environment = json.loads((directory / "results.json").read_text())["environment"]
    assert environment["world_size"] == count and launching.status(directory)["state"] == "finished"


def test_two_machines_of_which_one_has_the_disk(alone, tmp_path):
    """Two launchers that meet on the loopback address; the second is told another directory, and leaves it empty.

    Their images stay in the files, and those of the single process are in memory.
    """
    port = launching.free_port()
    flags = ("--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test")
    machines = [
        launching.fork(launching.command(1, *small(tmp_path / name, "data.storage=streaming"), flags=flags))
        for name in ("first", "second")
    ]
    ends = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    (written,) = [path for path in tmp_path.iterdir() if (path / "results.json").exists()]
    check_same(written, alone, same_storage=False)
    assert not any(path.exists() for path in (tmp_path / "first", tmp_path / "second") if path != written)


def test_a_batch_that_can_not_be_shared_is_refused_once(tmp_path):
    words = small(tmp_path / "run", "optim.norm_batch=0")
    done = launching.run(launching.command(2, *words), by=launching.fork)
    assert done.returncode == 1  # torchrun's answer to everything
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    assert len(lines) == 1 and "optim.norm_batch=10" in lines[0]
    assert launching.status(tmp_path / "run")["exit_code"] == 2


# one of them fails


def start_faulty(
    directory, what: str, rank: int, *more: str, flags: tuple = (), once: str = "", at: int = BORDERS
) -> launching.Forked:
    fault = {"what": what, "rank": rank, "at": at, "once": once}
    words = launching.command(2, *small(directory, *more), script=FAULTY, flags=flags)
    return launching.fork(words, env={"FAULT": json.dumps(fault)})


def test_a_process_that_was_killed_comes_back_with_the_launchers_help(two, tmp_path):
    """torchrun --max-restarts: the result is, bit by bit, that of two processes that nothing happened to.

    With a --master_port, as people give it: torchrun's store then outlives the first attempt.
    """
    undisturbed, killed, once = two[0], tmp_path / "killed", str(tmp_path / "once")
    flags = ("--max_restarts=1", f"--master_port={launching.free_port()}")
    launcher = start_faulty(killed, "SIGKILL", 1, flags=flags, once=once)
    _, error = launcher.communicate(timeout=300)
    assert launcher.returncode == 0 and os.path.exists(once), error
    assert launching.results(killed) == launching.results(undisturbed)
    model = [(directory / "model.safetensors").read_bytes() for directory in (killed, undisturbed)]
    assert model[0] == model[1]


def test_a_process_of_one_of_two_machines_comes_back(two, tmp_path):
    """The launcher of the machine that lost it counts a restart; the other one starts its process anew uncounted."""
    undisturbed, killed, once = two[0], tmp_path / "killed", str(tmp_path / "once")
    fault = {"what": "SIGKILL", "rank": 1, "at": BORDERS, "once": once}
    flags = ("--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{launching.free_port()}")
    words = launching.command(1, *small(killed), script=FAULTY, flags=(*flags, "--rdzv_id=a", "--max_restarts=2"))
    machines = [launching.fork(words, env={"FAULT": json.dumps(fault)}) for _ in range(2)]
    ends = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0] and os.path.exists(once), ends
    assert launching.results(killed) == launching.results(undisturbed)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_or_to_one_process_saves_and_stops_all(sent, code, stopped, tmp_path):
    """The launcher passes it on to all; and a process that got it itself tells the others by their next step.

    Outside the training it leaves at once, and takes the others with it: here after it selected exemplars.
    """
    selecting = start_faulty(tmp_path / "selecting", sent.name, 1, at=BORDERS_OF_SELECT)
    all_of_them = launching.fork(launching.command(2, *small(tmp_path / "all", "optim.epochs=500")))
    log = tmp_path / "all/metrics.jsonl"
    while not (log.exists() and '"epoch"' in log.read_text()):
        assert all_of_them.poll() is None
        time.sleep(0.1)
    all_of_them.send_signal(sent)
    one, error_of_one = stopped[sent.name]
    ends = {one: error_of_one}
    for name, launcher in (("all", all_of_them), ("selecting", selecting)):
        ends[tmp_path / name] = launcher.communicate(timeout=120)[1]
    for directory, error in ends.items():
        status = launching.status(directory)
        assert (status["state"], status["exit_code"]) == ("stopped", code), error
        assert sent.name in status["message"] and "goes on" in status["message"]
        lines = [line for line in error.splitlines() if line.startswith("train.py:")]
        assert lines == [f"train.py: {status['message']}"]
        found, problems = checkpoints.newest(directory / "checkpoints")
        assert found and not problems
    assert "(phase 1, epoch 0, step " in launching.status(one)["message"]
    found, _ = checkpoints.newest(tmp_path / "selecting/checkpoints")
    assert found.record["training"]["epoch"] == 1 and found.record["select_seconds"] is None


def test_one_process_goes_on_with_what_two_began_and_two_find_it_finished(alone, stopped, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(stopped["SIGTERM"][0], directory)
    assert launching.status(directory)["state"] == "stopped"
    words = small(directory)
    assert train.main(words) == 0
    assert "going on from phase 1" in capsys.readouterr().out
    check_same(directory, alone)
    again = launching.run(launching.command(2, *words), by=launching.fork)
    assert again.returncode == 0 and again.stdout.count("finished") == 1, again.stderr


def test_a_process_that_raises_is_killed_stops_answering_or_hangs_takes_all_down_and_is_named(failing):
    """Soon after the timeout; each by the first and by the second process."""
    launchers, folders, happened, timeout = failing
    errors = {case: launcher.communicate(timeout=200)[1] for case, launcher in launchers.items()}
    for case in launchers:
        status, raised = launching.status(folders[case]), case[0] == "raise"
        assert (status["state"], status["exit_code"]) == ("failed", 1), errors[case]
        assert status["message"].startswith(f"rank {case[1]}" + (": ZeroDivisionError: a bug" if raised else " ("))
        assert ("ZeroDivisionError: a bug" if raised else status["message"]) in errors[case]
        assert launchers[case].returncode == 1 and not launchers[case].alive()
        assert status["updated"] - happened[case].stat().st_mtime < timeout + 20
