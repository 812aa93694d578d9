"""A signal is answered at once wherever a run spends its time, what is trained is saved, and the bits are the same."""

import json
import os
import signal
import sys

import launching
import one_conv
import pytest
import tiny

import train
from benchmarks.reliability_helpers import real_runs
from cil_func import experiment
from cil_func.data import batches, sources
from cil_func.networks import backbones
from cil_func.parallel import joining
from cil_func.runs import checkpoints
from cil_func.training.inference import Forward

FLAGS = tiny.flags(
    "data.increment=5", "optim.epochs=2", "optim.eval_every_epochs=1", "optim.batch_size=30", "memory.size=50",
    "checkpoint.every_seconds=3600", f"model.backbone={one_conv.NAME}",
)  # fmt: skip
STEPS = 3  # of an epoch of phase 0: 5 classes of 18 images, in batches of 30
BEGINS = "phase 0 (1/2)"


pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shallow):
    directory = tmp_path_factory.mktemp("stopping") / "run"
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    return directory


def events_of(directory) -> list[dict]:
    """The events without times and those of a run that goes on."""
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    times = ("time", "seconds", "images_per_second", "directory")
    return [{k: v for k, v in e.items() if k not in times} for e in events if e["event"] != "resume"]


def stop_within(patch, owner, name: str, call: int) -> list:
    """SIGTERM inside the call of that number; the list gets an entry if the code goes on after it."""
    function, calls, late = getattr(owner, name), [], []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            late.append("here")
        return function(*arguments, **options)

    patch.setattr(owner, name, stopped)
    return late


# Features are computed for the evaluation between epochs, for the selection, for the exemplars' means, for the test.
@pytest.mark.parametrize(
    ("owner", "name", "call", "words", "then"),
    [
        (sources, "load", 1, "before the training began", BEGINS),
        (batches, "epoch_chunks", 1, "before anything was trained; the same command begins anew", BEGINS),
        # In the second step; the first one is saved. Before it the teacher of phase 0 runs once, for its shapes.
        (backbones, "run", 3, None, "phase 0, epoch 0, step 1"),
        (experiment, "evaluate", 1, None, f"phase 0, epoch 0, step {STEPS}"),
        (Forward, "features", 2, None, "phase 0, epoch 2, step 0"),
        (Forward, "features", 4, None, "phase 0, epoch 2, step 0, exemplars selected"),
        (checkpoints, "save_model", 1, None, "phase 2"),
    ],
)
def test_a_signal_is_answered_at_once_and_nothing_is_lost(
    owner, name, call, words, then, undisturbed, tmp_path, monkeypatch, capsys
):
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        late = stop_within(patch, owner, name, call)
        assert train.main([*FLAGS, "--out", str(directory)]) == 143
    assert late == []
    told, status = capsys.readouterr().err, launching.status(directory)
    words = words or f"and saved ({then}); the same command goes on from there"
    assert told == f"train.py: stopped by SIGTERM {words}\n"
    assert (status["state"], status["exit_code"], f"train.py: {status['message']}\n") == ("stopped", 143, told)
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert (then if then == BEGINS else f"going on from {then}\n") in capsys.readouterr().out
    assert not real_runs.difference(directory, undisturbed)
    assert events_of(directory) == events_of(undisturbed)


def test_a_process_that_was_stopped_waits_for_nothing_at_its_end():
    """Torch's compilers are waited for by a function that runs at exit."""
    code = "import atexit, train; atexit.register(print, 'waited'); print('told'); train.leave({})"
    for status, out in ((143, "told\n"), (130, "told\n"), (0, "told\nwaited\n"), (3, "told\nwaited\n")):
        done = launching.run([sys.executable, "-c", code.format(status)])
        assert (done.returncode, done.stdout) == (status, out), done.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_the_others_stops_at_once(rank, tmp_path, monkeypatch, capsys):
    """Two are to come, as a scheduler starts them by environment variables, and only one does."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"MASTER_PORT": launching.free_port()}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(joining.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main([*FLAGS, "--set", "run.timeout_seconds=5", "--out", str(tmp_path / "run")]) == 143
    assert capsys.readouterr().err == "train.py: stopped by SIGTERM before the training began\n"
    assert not (tmp_path / "run").exists()
