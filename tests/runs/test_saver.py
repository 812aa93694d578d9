"""When CheckpointSaver saves, and when it stops a run."""

import concurrent.futures
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from cil_func.errors import DiskError, NonFiniteError, StoppedError
from cil_func.networks.network import Model
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs import checkpoints, saver
from cil_func.runs.checkpoint_writer import CheckpointWriter
from cil_func.runs.saver import CheckpointSaver
from cil_func.runs.signals import Signals
from cil_func.training.epochs import Position
from cil_func.training.progress import Progress, StageProgress
from cil_func.training.step_state import Health, Measures, TrainState


class Noted(Signals):
    """Signals whose `received` the test sets."""


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(saver, "time", clock)
    monkeypatch.setattr(saver, "pack", lambda progress: ({}, {"place": list(progress.place)}))
    return clock


def at(phase: int, step: int):
    return lambda: Progress(phase, training=StageProgress(None, None, Position(0, step)))


def saved(folder) -> list:
    """Returns (number, place, more) of the newest checkpoint, None if there is none."""
    found, _ = checkpoints.newest(folder)
    if found is None:
        return None
    phase, _, epoch, step = found.record["place"]
    return (found.number, [phase, epoch, step], found.record.get("more"))


def test_between_steps_it_saves_when_it_is_time_and_at_a_boundary_always(tmp_path, clock):
    more = {"number": 5, "extra": lambda: {"more": clock.now}}
    saver = CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=60, **more)
    saver.at_border(at(0, 1), False)
    assert saved(tmp_path) is None
    clock.now = 60.0
    saver.at_border(at(0, 2), False)
    saver.wait()
    assert saved(tmp_path) == (5, [0, 0, 2], 60.0)
    clock.now = 119.0
    saver.at_border(at(0, 3), False)
    assert saved(tmp_path)[0] == 5
    saver.at_border(at(0, 4), True)
    saver.wait()
    assert saved(tmp_path) == (6, [0, 0, 4], 119.0)
    clock.now = 178.0  # the boundary counts as a save
    saver.at_border(at(0, 5), False)
    saver.wait()
    assert saved(tmp_path)[0] == 6


def test_a_place_is_not_saved_twice(tmp_path, clock):
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=60) as saver:
        for _ in range(3):
            saver.at_border(at(0, 4), True)
    assert saved(tmp_path)[0] == 0


def test_a_selection_at_the_same_place_is_saved(tmp_path, clock):
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=60) as saver:
        for seconds in (None, None, 0.5, 0.5):
            saver.at_border(lambda seconds=seconds: replace(at(0, 4)(), select_seconds=seconds), True)
    assert saved(tmp_path)[:2] == (1, [0, 0, 4])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("boundary", [False, True])
def test_a_signal_saves_and_stops(number, status, boundary, tmp_path, clock):
    signals = Noted()
    saver = CheckpointSaver(tmp_path, Processes(), signals, every_seconds=60)
    saver.at_border(at(1, 0), False)
    signals.received = number
    with pytest.raises(StoppedError, match=r"\(phase 1, epoch 0, step 1\); the same command goes on") as caught:
        saver.at_border(at(1, 1), boundary)
    assert caught.value.exit_status == status and saved(tmp_path) == (0, [1, 0, 1], None)


class Several(Processes):
    """One of two processes. The other one never gets a signal, and never hears of it."""

    def __init__(self, rank: int = 0):
        super().__init__(Launch(rank, 2, rank, 2))

    def signals_at_step(self, signal):
        return 0

    signals_now = signals_at_step


def take_step(saver: CheckpointSaver, step: int) -> None:
    saver.at_border(at(0, step), False)
    saver.before_change()


def test_a_signal_between_a_border_and_the_change_stops_at_once_and_the_border_is_saved(tmp_path, clock):
    with Signals() as signals:
        saver = CheckpointSaver(tmp_path, Processes(), signals, every_seconds=60)
        take_step(saver, 0)
        saver.at_border(at(0, 1), False)
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
        assert saved(tmp_path) is None
        with pytest.raises(StoppedError, match=r"SIGTERM and saved \(phase 0, epoch 0, step 1\)") as caught:
            saver.save_after_failure()
    assert caught.value.exit_status == 143 and saved(tmp_path) == (0, [0, 0, 1], None)


def test_a_signal_while_a_step_changes_things_waits_for_the_next_border(tmp_path, clock):
    with Signals() as signals:
        saver = CheckpointSaver(tmp_path, Processes(), signals, every_seconds=60)
        take_step(saver, 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedError, match=r"SIGINT and saved \(phase 0, epoch 0, step 1\)"):
            saver.at_border(at(0, 1), False)
    assert saved(tmp_path) == (0, [0, 0, 1], None)


def test_a_signal_in_the_first_step_saves_nothing_for_nothing_is_lost(tmp_path, clock):
    """That happens while it compiles."""
    for begun, words in (
        (None, "before anything was trained; the same command begins anew"),
        (at(3, 7)(), r"and saved \(phase 3, epoch 0, step 7\); the same command goes on from there"),
    ):
        with Signals() as signals:
            saver = CheckpointSaver(tmp_path, Processes(), signals, every_seconds=60, begun=begun)
            saver.at_border(at(0, 0), False)
            with pytest.raises(StoppedError):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(StoppedError, match=words):
                saver.save_after_failure()
        assert saved(tmp_path) is None


def test_several_processes_leave_the_training_at_a_border_and_other_work_at_once(tmp_path, clock):
    with Signals() as signals:
        saver = CheckpointSaver(tmp_path, Several(), signals, every_seconds=60)
        saver.at_border(at(0, 0), True)
        take_step(saver, 0)
        saver.at_border(at(0, 1), False)
        os.kill(os.getpid(), signal.SIGTERM)  # and nothing happens: the other one wouldn't know
        saver.before_change()
        with pytest.raises(StoppedError):
            saver.at_border(at(0, 2), True)  # the other one didn't hear it
        with pytest.raises(StoppedError, match=r"saved \(phase 0, epoch 0, step 2\)"):
            saver.save_after_failure()
    assert saved(tmp_path) == (1, [0, 0, 2], None)


def test_when_all_leave_together_each_names_the_place_that_was_saved(tmp_path, clock):
    """Any of them may be the first to say why: the process that got the signal, or another one."""

    class Hears(Several):
        def signals_at_step(self, signal):
            return 1 << 16

        def wait_for_all(self, place):
            assert place == "stop"

    for rank, received in ((0, 0), (0, signal.SIGTERM), (1, 0), (1, signal.SIGTERM)):
        signals = Noted()
        saver = CheckpointSaver(tmp_path / f"{rank}{received}", Hears(rank), signals, every_seconds=60)
        signals.received = received
        told = r"SIGTERM and saved \(phase 0, epoch 0, step 3\)"
        with pytest.raises(StoppedError, match=told) as stopped:
            saver.at_border(at(0, 3), False)
        with pytest.raises(StoppedError, match=told):
            saver.save_after_failure()  # returns if it has nothing to say
            raise stopped.value


def test_a_run_that_loses_a_process_saves_its_last_border(tmp_path, clock):
    saver = CheckpointSaver(tmp_path, Several(), Noted(), every_seconds=60)
    take_step(saver, 0)
    saver.before_long_work(at(0, 1))
    saver.save_after_failure()
    assert saved(tmp_path) == (0, [0, 0, 1], None)
    take_step(saver, 1)
    saver.save_after_failure()  # in the middle of a change
    assert saved(tmp_path)[0] == 0


def test_only_the_first_process_writes(tmp_path, clock):
    class Other(Processes):
        def signals_at_step(self, signal):
            return 0

    saver = CheckpointSaver(tmp_path, Other(Launch(1, 2, 1, 2)), Noted(), every_seconds=0)
    saver.at_border(at(0, 1), False)
    assert not any(tmp_path.iterdir())


def test_the_strongest_signal_is_read_from_the_sum_over_processes():
    """Any number of SIGINTs is not a SIGTERM. A single SIGTERM counts, and so does a single SIGHUP."""
    assert [saver._strongest(total) for total in (0, 1, 1000)] == [0, signal.SIGINT, signal.SIGINT]
    assert [saver._strongest(total) for total in (1 << 16, (1 << 16) + 7, 3 << 16)] == [signal.SIGTERM] * 3
    hang_up = 1 << 32  # as a sum of float32 has it too
    assert [saver._strongest(total) for total in (1000 << 16, hang_up, 8 * hang_up)] == [
        signal.SIGTERM, signal.SIGHUP, signal.SIGHUP,
    ]  # fmt: skip


def test_a_file_that_cannot_be_deleted_is_only_a_warning(tmp_path, clock, monkeypatch):
    told = []
    monkeypatch.setattr(CheckpointWriter, "write", lambda *arguments, **settings: ["0.json can't be deleted"])
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=0, warn=told.append) as saver:
        saver.at_border(at(0, 1), False)
    assert told == ["0.json can't be deleted"]


@pytest.fixture
def slow(monkeypatch):
    """Lets writing wait for an event, and notes which saves have begun."""
    go, begun, write = threading.Event(), [], CheckpointWriter.write

    def slowly(self, staged, record, *, number):
        begun.append(number)
        assert go.wait(60)
        return write(self, staged, record, number=number)

    monkeypatch.setattr(CheckpointWriter, "write", slowly)
    return go, begun


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits_its_turn(tmp_path, clock, slow):
    go, begun = slow
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=0) as saver:
        for step in range(1, 4):
            saver.at_border(at(0, step), False)  # comes back, though nothing is on disk yet
        assert begun == [0] and saved(tmp_path) is None
        go.set()
    assert saved(tmp_path)[:2] == (0, [0, 0, 1])


def test_a_boundary_waits_for_the_save_before_it_and_the_end_for_the_last(tmp_path, clock, slow):
    go, begun = slow
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=0) as saver:
        saver.at_border(at(0, 1), False)
        threading.Timer(0.01, go.set).start()
        saver.at_border(at(0, 2), True)
        assert saved(tmp_path)[0] >= 0
    assert begun == [0, 1] and saved(tmp_path)[:2] == (1, [0, 0, 2])


def test_a_signal_is_answered_when_its_checkpoint_is_on_disk(tmp_path, clock, slow):
    go, _ = slow
    signals = Noted()
    saver = CheckpointSaver(tmp_path, Processes(), signals, every_seconds=0)
    saver.at_border(at(0, 1), False)
    signals.received = signal.SIGTERM
    threading.Timer(0.01, go.set).start()
    with pytest.raises(StoppedError):
        saver.at_border(at(0, 2), False)
    assert saved(tmp_path)[:2] == (1, [0, 0, 2])


def full(self, staged, record, *, number):
    raise DiskError("checkpoints: No space left on device; free some space")


def test_what_fails_in_the_background_is_raised_at_the_next_border(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(CheckpointWriter, "write", full)
    saver = CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=60)
    saver.at_border(at(0, 1), True)
    concurrent.futures.wait([saver._writing])
    with pytest.raises(DiskError, match="No space left"):
        saver.at_border(at(0, 2), False)


def test_what_fails_in_the_background_is_raised_at_the_end_but_not_over_another_error(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(CheckpointWriter, "write", full)
    before = set(threading.enumerate())
    for raised, body in ((DiskError, lambda: None), (NonFiniteError, refuse)):
        with pytest.raises(raised), CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=60) as saver:
            saver.at_border(at(0, 1), True)
            body()
        assert set(threading.enumerate()) <= before


def refuse():
    raise NonFiniteError("the loss is not finite")


def test_within_a_phase_the_learned_model_is_not_written_each_time(tmp_path):
    """Five saves of 80 kB that change and 40 kB that don't. In the end there are two of each on disk."""
    learned = Model({"weight": torch.ones(10_000)}, {})
    with CheckpointSaver(tmp_path, Processes(), Noted(), every_seconds=0) as saver:
        for step in range(5):
            health = Health(*map(torch.tensor, (step, -1, -1)))
            params, momentum = ({"weight": torch.full((10_000,), float(step))} for _ in range(2))
            state = TrainState(params, {}, momentum, health)
            training = StageProgress(state, Measures(*torch.zeros(5)), Position(0, step))
            saver.at_border(lambda training=training: Progress(1, learned, {0: torch.arange(3)}, (), training), True)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert sorted(int(name[:8]) for name, size in sizes.items() if size > 80_000) == [3, 4]
    assert sorted(int(name[:8]) for name, size in sizes.items() if 40_000 < size < 80_000) == [0, 1]
    found, _ = checkpoints.newest(tmp_path)
    assert found.number == 4 and found.tree["learned"]["params"]["weight"].tolist() == [1.0] * 10_000
