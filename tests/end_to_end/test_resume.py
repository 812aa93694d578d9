"""The same command goes on where a run was stopped, and ends with the same bits."""

import functools
import gc
import json
import math
import os
import shutil
import signal
import threading
import time
import weakref

import launching
import one_conv
import pytest
import tiny
import torch

import train
from benchmarks.reliability_helpers import real_runs, train_with_fault
from cil_func import config, experiment, tree
from cil_func.errors import ConfigError, DataError, DiskError
from cil_func.runs import checkpoints, counting, files, planning, saver, setup
from cil_func.training import step
from cil_func.training.preprocess import Preprocess

STEPS = (9, 10, 6)  # of each phase; three borders after the last one of each
NAN_IN_PHASE_1 = '{{"what": "nan in the {}", "at": 14}}'  # its fifth step
FLAGS = tiny.flags(
    "data.increment=4", "optim.epochs=1", "optim.batch_size=8", "optim.norm_batch=4", "memory.size=10",
    "checkpoint.every_seconds=0.2", f"model.backbone={one_conv.NAME}",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shallow):
    directory = tmp_path_factory.mktemp("resume") / "run"
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    return directory


def stopped_at(border: int, directory, monkeypatch, *, after: bool = False, sent: int = signal.SIGTERM) -> int:
    """The exit status of a run that gets a signal just before a border, or just after it."""
    call, passed = saver.CheckpointSaver.at_border, []

    def faulty(self, make, boundary):
        passed.append(boundary)
        if len(passed) == border and not after:
            os.kill(os.getpid(), sent)
        call(self, make, boundary)
        if len(passed) == border and after:
            os.kill(os.getpid(), sent)

    with monkeypatch.context() as patch:
        patch.setattr(saver.CheckpointSaver, "at_border", faulty)
        return train.main([*FLAGS, "--out", str(directory)])


def test_the_borders_are_those_that_are_counted(undisturbed):
    """Or the borders below would not be where they are said to be. 72 images, 72 and 8 exemplars, 36 and 8."""
    epochs = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    images = [event["images"] for event in epochs if event["event"] == "epoch"]
    assert [-(-count // 8) for count in images] == list(STEPS)
    of_lab = counting.train_images(setup.build(config.load("digits", real_runs.SETTINGS)).experiment)
    assert sum(-(-count // 64) for count in of_lab) + 3 * len(of_lab) == real_runs.BORDERS


@pytest.mark.parametrize("border", [6, 10, 11, 12, 13, 17, 34])
def test_stopped_in_an_epoch_between_the_parts_of_a_phase_and_between_phases(
    border, undisturbed, tmp_path, monkeypatch, capsys
):
    directory = tmp_path / "run"
    assert stopped_at(border, directory, monkeypatch) == 143
    told = capsys.readouterr().err
    assert told.startswith("train.py: stopped by SIGTERM and saved (phase ") and told.count("\n") == 1
    assert launching.status(directory)["state"] == "stopped"
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert "going on from phase" in capsys.readouterr().out
    assert not real_runs.difference(directory, undisturbed)
    told = [[event_without_times(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            for path in (directory, undisturbed)]  # fmt: skip
    assert [event for event in told[0] if event["event"] != "resume"] == told[1]


def test_exemplars_that_were_selected_before_the_stop_are_not_selected_again(
    undisturbed, tmp_path, monkeypatch, capsys
):
    directory, select, phases = tmp_path / "run", experiment.select, []
    after_select = STEPS[0] + 2  # the border of the trained phase is the one before
    assert stopped_at(after_select, directory, monkeypatch, after=True) == 143
    assert "(phase 0, epoch 1, step 0, exemplars selected)" in capsys.readouterr().err
    found, _ = checkpoints.newest(directory / "checkpoints")
    assert len(found.tree["exemplars"]) == 4 and found.record["rows"] == []  # of phase 0, which has not ended

    def counted(setup, phase, *rest):
        phases.append(phase.index)
        return select(setup, phase, *rest)

    monkeypatch.setattr(experiment, "select", counted)
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert phases == [1, 2] and not real_runs.difference(directory, undisturbed)
    assert "going on from phase 0, epoch 1, step 0, exemplars selected" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU the run is trained on it")
def test_a_run_goes_on_on_the_device_that_the_command_names(undisturbed, tmp_path, monkeypatch, capsys):
    """As if its checkpoint were of a GPU that is gone. A try that saves nothing, on a CPU, doesn't change that."""
    directory, newest, told = tmp_path / "run", checkpoints.newest, "trained on cuda so far, from now on cpu"
    assert stopped_at(13, directory, monkeypatch) == 143

    def of_a_gpu(folder):
        loaded, problems = newest(folder)
        loaded.record["device"] = "cuda"
        return loaded, problems

    def run(device: str) -> int:
        capsys.readouterr()
        return train.main([*FLAGS, "--set", f"run.device={device}", "--out", str(directory)])

    monkeypatch.setattr(checkpoints, "newest", of_a_gpu)
    assert run("auto") == 2 and f"--set run.device=cpu --out {directory} goes on without" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(planning, "check", lambda ready: (_ for _ in ()).throw(ConfigError("no memory")))
        assert run("cpu") == 2 and "no memory" in capsys.readouterr().err
    assert run("auto") == 2 and "finds no CUDA device" in capsys.readouterr().err
    assert run("cpu") == 0 and told in capsys.readouterr().out
    assert told in (directory / "metrics.jsonl").read_text() and not real_runs.difference(directory, undisturbed)
    assert 'device = "cpu"' in (directory / "config.toml").read_text()
    assert run("cuda") == 2 and 'run.device is "cpu" there and "cuda" here' in capsys.readouterr().err  # it is finished


@pytest.mark.parametrize("broken", ["", '{"phases": [', "[]"])
def test_results_that_are_broken_are_made_again(broken, undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    (directory / "results.json").write_text(broken)
    assert train.main([*FLAGS, "--out", str(directory)]) == 0 and not real_runs.difference(directory, undisturbed)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_model_that_was_deleted_is_written_again_from_the_last_checkpoint(name, undisturbed, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    (directory / name).unlink()
    assert train.main([*FLAGS, "--out", str(directory)]) == 0 and not (directory / name).exists()
    assert "its model is gone; delete its results.json too, and the same" in capsys.readouterr().err
    (directory / "results.json").unlink()
    assert train.main([*FLAGS, "--out", str(directory)]) == 0 and not real_runs.difference(directory, undisturbed)
    assert (directory / name).read_bytes() == (undisturbed / name).read_bytes()
    (directory / name).unlink()
    shutil.rmtree(directory / "checkpoints")
    capsys.readouterr()
    assert train.main([*FLAGS, "--out", str(directory)]) == 0  # it isn't trained anew unasked
    told = capsys.readouterr()
    assert "holds this run, finished" in told.out and "its model is gone" in told.err
    assert not (directory / name).exists()


@pytest.mark.parametrize("broken", [None, '{"phases": ['])
def test_a_finished_run_without_checkpoints_is_not_trained_again_over_its_model(broken, undisturbed, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    shutil.rmtree(directory / "checkpoints")
    (directory / "results.json").unlink()
    if broken:
        (directory / "results.json").write_text(broken)
    assert train.main([*FLAGS, "--out", str(directory)]) == 5
    assert "its results.json is gone or damaged, and no checkpoint is there" in capsys.readouterr().err
    assert launching.status(directory)["state"] == "finished"
    assert (directory / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_a_closed_terminal_stops_the_run_after_saving(tmp_path, monkeypatch, capsys):
    assert stopped_at(6, tmp_path / "run", monkeypatch, sent=signal.SIGHUP) == 129
    assert "stopped by SIGHUP and saved (phase 0, " in capsys.readouterr().err
    status = launching.status(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("stopped", 129)


def test_a_checkpoint_says_on_which_device_it_was_trained(undisturbed):
    found, _ = checkpoints.newest(undisturbed / "checkpoints")
    assert found.record["device"] == config.load(str(undisturbed / "config.toml")).run.device in ("cpu", "cuda")


def test_files_that_are_deleted_while_a_run_goes_on_are_written_again(
    undisturbed, tmp_path, monkeypatch, capsys, drawn
):
    """Then it is stopped, and looks as if it had been killed two hours ago; and its report can't be written."""
    directory, call, passed = tmp_path / "run", saver.CheckpointSaver.at_border, []
    in_phase_1 = STEPS[0] + 3 + 2

    def faulty(self, make, boundary):
        passed.append(boundary)
        if len(passed) == in_phase_1:
            for name in ("metrics.jsonl", "config.toml", "results.json", "status.json"):
                (directory / name).unlink()
            self.wait()  # what is deleted under the hands of its thread: tests/runs/test_checkpoints.py
            shutil.rmtree(directory / "checkpoints")
        if len(passed) == in_phase_1 + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        call(self, make, boundary)

    with monkeypatch.context() as patch:
        patch.setattr(saver.CheckpointSaver, "at_border", faulty)
        assert train.main([*FLAGS, "--set", "checkpoint.every_seconds=0.001", "--out", str(directory)]) == 143
    assert launching.status(directory)["state"] == "stopped"
    capsys.readouterr()
    files.write_json(directory / "status.json", {
        "state": "running", "updated": time.time() - 7300, "pid": 4194305, "host": "there"
    })  # fmt: skip
    (directory / "report").write_text("no folder")
    with drawn():
        assert train.main([*FLAGS, "--set", "checkpoint.every_seconds=0.001", "--out", str(directory)]) == 0
    assert launching.status(directory)["state"] == "finished" and not capsys.readouterr().err
    log = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    warnings = [event["message"] for event in log if event["event"] == "warning"]
    told = ("metrics.jsonl was deleted", "config.toml was deleted", "killed before it could", "report: File exists")
    for words in told:
        assert sum(words in warning for warning in warnings) == 1, words
    assert len(warnings) == len(told) and "by process 4194305 on there 2 h ago" in " ".join(warnings)
    others = [event_without_times(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    kinds = ("warning", "resume")
    mine = [event_without_times(json.dumps(event)) for event in log if event["event"] not in kinds]
    assert mine == others
    assert real_runs.exemplars(directory) == real_runs.exemplars(undisturbed)
    assert (directory / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def event_without_times(line: str) -> dict:
    event = json.loads(line)
    return {key: value for key, value in event.items() if key not in (
        "time", "seconds", "images_per_second", "directory"
    )}  # fmt: skip


def test_stopped_again_and_again(undisturbed, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    for border in (4, 3, 8, 2, 7):
        assert stopped_at(border, directory, monkeypatch) == 143
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert not real_runs.difference(directory, undisturbed)


def test_a_run_that_goes_on_keeps_nothing_of_the_checkpoint_beside_its_own_state(tmp_path, monkeypatch):
    """Seen from the phase loop: when it lets go of what it was given, the tensors are gone."""
    directory, kept = tmp_path / "run", []
    assert stopped_at(15, directory, monkeypatch) == 143

    def phases(ready, *, start, **_):
        progress = start()
        leaves = [weakref.ref(leaf) for leaf in tree.leaves([progress.learned, progress.training.train_state])]
        del progress
        gc.collect()
        kept.extend(leaf for leaf in leaves if leaf() is not None)
        raise DataError(f"{len(leaves)} tensors")

    # As a `partial`, since the caller of a function in C holds what it passed until the call returns. The caller of a
    # Python function does too, in a process where compiled code runs.
    monkeypatch.setattr(experiment, "run", functools.partial(phases))
    assert train.main([*FLAGS, "--out", str(directory)]) == 3
    assert kept == []


def test_the_disk_that_fails_in_the_background_is_exit_74_and_the_run_goes_on_when_it_is_mended(
    undisturbed, tmp_path, monkeypatch, capsys
):
    directory, write, calls = tmp_path / "run", files.write_chunks, []

    def full(path, chunks):
        calls.append(path)
        background = threading.current_thread() is not threading.main_thread()
        if background and len(calls) > 12:
            raise DiskError(f"{path}: No space left on device; free some space")
        write(path, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_chunks", full)
        assert train.main([*FLAGS, "--out", str(directory)]) == 74
    told = capsys.readouterr().err
    assert "No space left on device" in told and told.count("\n") == 1
    assert launching.status(directory)["exit_code"] == 74
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert not real_runs.difference(directory, undisturbed)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(undisturbed, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "run"
    assert stopped_at(15, directory, monkeypatch) == 143
    newest = max((directory / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert f"warning: checkpoint {int(newest.name[:8])} is skipped" in capsys.readouterr().out
    assert not real_runs.difference(directory, undisturbed)


def test_no_checkpoint_that_can_be_used_is_exit_5_and_nothing_is_written_over(tmp_path, monkeypatch, capsys):
    directory = tmp_path / "run"
    assert stopped_at(15, directory, monkeypatch) == 143
    for path in (directory / "checkpoints").glob("*.json"):
        path.write_bytes(b"{}\n")
    before = {path.name: path.read_bytes() for path in (directory / "checkpoints").iterdir()}
    capsys.readouterr()
    assert train.main([*FLAGS, "--out", str(directory)]) == 5
    assert capsys.readouterr().err.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in (directory / "checkpoints").iterdir()}


@pytest.mark.parametrize("where", ["input", "loss", "gradient", "weight"])
def test_what_is_not_finite_is_named_and_the_last_checkpoint_is_good(
    where, undisturbed, tmp_path, monkeypatch, capsys
):
    """Both values, phases and ranks, each as real processes: benchmarks.reliability."""
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(step, "make", step.make)  # which the fault replaces
        patch.setattr(Preprocess, "__call__", Preprocess.__call__)
        train_with_fault.in_a_step(train_with_fault.Fault(NAN_IN_PHASE_1.format(where)), math.nan, where)
        assert train.main([*FLAGS, "--out", str(directory)]) == 4
    check_named(capsys.readouterr().err)
    found, _ = checkpoints.newest(directory / "checkpoints")
    assert all(leaf.isfinite().all() for leaf in torch.utils._pytree.tree_leaves(found.tree))
    assert train.main([*FLAGS, "--out", str(directory)]) == 0
    assert not real_runs.difference(directory, undisturbed)


def test_what_is_not_finite_is_exit_4_of_a_real_process(tmp_path):
    script = "benchmarks/reliability_helpers/train_with_fault.py"
    words = launching.command(0, *FLAGS, "--out", str(tmp_path / "run"), script=script)
    done = launching.run(words, by=launching.fork, env={"FAULT": NAN_IN_PHASE_1.format("loss")})
    assert done.returncode == 4
    check_named(done.stderr)


def check_named(error: str) -> None:
    assert error.count("\n") == 1 and "phase 1, epoch 0, step 4: " in error and "is not finite" in error


def test_nobody_reads_the_screen_any_more(tmp_path):
    """`python train.py | head -1`: the training goes on."""
    process = launching.start(launching.command(0, *FLAGS, "--out", str(tmp_path / "run")))
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0, error
    assert launching.status(tmp_path / "run")["state"] == "finished"
