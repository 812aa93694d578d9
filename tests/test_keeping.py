"""When a run is saved, and when it stops."""

import concurrent.futures
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from cil_func import checkpoint, keeping
from cil_func.engine.distributed import Launch, World
from cil_func.engine.fit import Position
from cil_func.engine.step import Health, Measures, TrainState
from cil_func.errors import DiskError, NonFiniteError, StoppedError
from cil_func.keeping import Keeper
from cil_func.progress import Progress, Training
from cil_func.saving import Saver
from cil_func.signals import Signals


class Noted(Signals):
    """A signal is what a test puts into `received`."""


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(keeping, "time", clock)
    monkeypatch.setattr(keeping, "pack", lambda progress: ({}, {"place": list(progress.place)}))
    return clock


def at(phase: int, step: int):
    return lambda: Progress(phase, training=Training(None, None, Position(0, step), 0.0))


def saved(folder) -> list:
    """(number, place) of the newest checkpoint."""
    found, _ = checkpoint.newest(folder)
    return found and (found.number, found.record["place"], found.record.get("more"))


def test_between_steps_it_saves_when_it_is_time_and_at_a_boundary_always(tmp_path, clock):
    keeper = Keeper(tmp_path, World(), Noted(), every_seconds=60, number=5, extra=lambda: {"more": clock.now})
    keeper(at(0, 1), False)
    assert saved(tmp_path) is None
    clock.now = 60.0
    keeper(at(0, 2), False)
    keeper.wait()
    assert saved(tmp_path) == (5, [0, 0, 2], 60.0)
    clock.now = 119.0
    keeper(at(0, 3), False)
    assert saved(tmp_path)[0] == 5
    keeper(at(0, 4), True)
    keeper.wait()
    assert saved(tmp_path) == (6, [0, 0, 4], 119.0)
    clock.now = 178.0  # the boundary counts as a save
    keeper(at(0, 5), False)
    keeper.wait()
    assert saved(tmp_path)[0] == 6


def test_a_place_is_not_saved_twice(tmp_path, clock):
    with Keeper(tmp_path, World(), Noted(), every_seconds=60) as keeper:
        for _ in range(3):
            keeper(at(0, 4), True)
    assert saved(tmp_path)[0] == 0


def test_a_selection_at_the_same_place_is_saved(tmp_path, clock):
    with Keeper(tmp_path, World(), Noted(), every_seconds=60) as keeper:
        for seconds in (None, None, 0.5, 0.5):
            keeper(lambda seconds=seconds: replace(at(0, 4)(), select_seconds=seconds), True)
    assert saved(tmp_path)[:2] == (1, [0, 0, 4])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("boundary", [False, True])
def test_a_signal_saves_and_stops(number, status, boundary, tmp_path, clock):
    signals = Noted()
    keeper = Keeper(tmp_path, World(), signals, every_seconds=60)
    keeper(at(1, 0), False)
    signals.received = number
    with pytest.raises(StoppedError, match=r"\(phase 1, epoch 0, step 1\); the same command goes on") as caught:
        keeper(at(1, 1), boundary)
    assert caught.value.exit_status == status and saved(tmp_path) == (0, [1, 0, 1], None)


class Several(World):
    """Rank 0 of two, of which the other never gets a signal."""

    def __init__(self):
        super().__init__(Launch(0, 2, 0, 2))

    def heard(self, signal):
        return 0

    consult = heard


def take_step(keeper: Keeper, step: int) -> None:
    keeper(at(0, step), False)
    keeper.changing()


def test_a_signal_between_a_border_and_the_change_stops_at_once_and_the_border_is_saved(tmp_path, clock):
    with Signals() as signals:
        keeper = Keeper(tmp_path, World(), signals, every_seconds=60)
        take_step(keeper, 0)
        keeper(at(0, 1), False)
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
        assert saved(tmp_path) is None
        with pytest.raises(StoppedError, match=r"SIGTERM and saved \(phase 0, epoch 0, step 1\)") as caught:
            keeper.rescue()
    assert caught.value.exit_status == 143 and saved(tmp_path) == (0, [0, 0, 1], None)


def test_a_signal_while_a_step_changes_things_waits_for_the_next_border(tmp_path, clock):
    with Signals() as signals:
        keeper = Keeper(tmp_path, World(), signals, every_seconds=60)
        take_step(keeper, 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedError, match=r"SIGINT and saved \(phase 0, epoch 0, step 1\)"):
            keeper(at(0, 1), False)
    assert saved(tmp_path) == (0, [0, 0, 1], None)


def test_a_signal_in_the_first_step_saves_nothing_for_nothing_is_lost(tmp_path, clock):
    """As when it compiles."""
    for begun, words in (
        (None, "before anything was trained; the same command begins anew"),
        (at(3, 7)(), r"and saved \(phase 3, epoch 0, step 7\); the same command goes on from there"),
    ):
        with Signals() as signals:
            keeper = Keeper(tmp_path, World(), signals, every_seconds=60, begun=begun)
            keeper(at(0, 0), False)
            with pytest.raises(StoppedError):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(StoppedError, match=words):
                keeper.rescue()
        assert saved(tmp_path) is None


def test_several_processes_leave_the_training_at_a_border_and_other_work_at_once(tmp_path, clock):
    with Signals() as signals:
        keeper = Keeper(tmp_path, Several(), signals, every_seconds=60)
        keeper(at(0, 0), True)
        take_step(keeper, 0)
        keeper(at(0, 1), False)
        os.kill(os.getpid(), signal.SIGTERM)  # and nothing happens: the other one wouldn't know
        keeper.changing()
        with pytest.raises(StoppedError):
            keeper(at(0, 2), True)  # the other one didn't hear it
        with pytest.raises(StoppedError, match=r"saved \(phase 0, epoch 0, step 2\)"):
            keeper.rescue()
    assert saved(tmp_path) == (1, [0, 0, 2], None)


def test_a_run_that_loses_the_others_saves_what_it_can(tmp_path, clock):
    keeper = Keeper(tmp_path, Several(), Noted(), every_seconds=60)
    take_step(keeper, 0)
    keeper.pause(at(0, 1))
    keeper.rescue()
    assert saved(tmp_path) == (0, [0, 0, 1], None)
    take_step(keeper, 1)
    keeper.rescue()  # in the middle of a change
    assert saved(tmp_path)[0] == 0


def test_only_the_first_process_writes(tmp_path, clock):
    class Other(World):
        def heard(self, signal):
            return 0

    keeper = Keeper(tmp_path, Other(Launch(1, 2, 1, 2)), Noted(), every_seconds=0)
    keeper(at(0, 1), False)
    assert not any(tmp_path.iterdir())


def test_sums_of_what_processes_say():
    """However many say SIGINT, it is no SIGTERM; one SIGTERM among them counts."""
    assert [keeping._loudest(heard) for heard in (0, 1, 1000)] == [0, signal.SIGINT, signal.SIGINT]
    assert [keeping._loudest(heard) for heard in (1 << 16, (1 << 16) + 7, 3 << 16)] == [signal.SIGTERM] * 3


def test_what_cannot_be_deleted_is_only_told(tmp_path, clock, monkeypatch):
    told = []
    monkeypatch.setattr(Saver, "write", lambda *arguments, **settings: ["0.json can't be deleted"])
    with Keeper(tmp_path, World(), Noted(), every_seconds=0, warn=told.append) as keeper:
        keeper(at(0, 1), False)
    assert told == ["0.json can't be deleted"]


@pytest.fixture
def slow(monkeypatch):
    """Writing waits for the event; which saves began."""
    go, begun, write = threading.Event(), [], Saver.write

    def slowly(self, staged, record, *, number):
        begun.append(number)
        assert go.wait(60)
        return write(self, staged, record, number=number)

    monkeypatch.setattr(Saver, "write", slowly)
    return go, begun


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits_its_turn(tmp_path, clock, slow):
    go, begun = slow
    with Keeper(tmp_path, World(), Noted(), every_seconds=0) as keeper:
        for step in range(1, 4):
            keeper(at(0, step), False)  # comes back, though nothing is on disk yet
        assert begun == [0] and saved(tmp_path) is None
        go.set()
    assert saved(tmp_path)[:2] == (0, [0, 0, 1])


def test_a_boundary_waits_for_the_save_before_it_and_the_end_for_the_last(tmp_path, clock, slow):
    go, begun = slow
    with Keeper(tmp_path, World(), Noted(), every_seconds=0) as keeper:
        keeper(at(0, 1), False)
        threading.Timer(0.01, go.set).start()
        keeper(at(0, 2), True)
        assert saved(tmp_path)[0] >= 0
    assert begun == [0, 1] and saved(tmp_path)[:2] == (1, [0, 0, 2])


def test_a_signal_is_answered_when_its_checkpoint_is_on_disk(tmp_path, clock, slow):
    go, _ = slow
    signals = Noted()
    keeper = Keeper(tmp_path, World(), signals, every_seconds=0)
    keeper(at(0, 1), False)
    signals.received = signal.SIGTERM
    threading.Timer(0.01, go.set).start()
    with pytest.raises(StoppedError):
        keeper(at(0, 2), False)
    assert saved(tmp_path)[:2] == (1, [0, 0, 2])


def full(self, staged, record, *, number):
    raise DiskError("checkpoints: No space left on device; free some space")


def test_what_fails_in_the_background_is_raised_at_the_next_border(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(Saver, "write", full)
    keeper = Keeper(tmp_path, World(), Noted(), every_seconds=60)
    keeper(at(0, 1), True)
    concurrent.futures.wait([keeper._writing])
    with pytest.raises(DiskError, match="No space left"):
        keeper(at(0, 2), False)


def test_what_fails_in_the_background_is_raised_at_the_end_but_not_over_another_error(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(Saver, "write", full)
    before = set(threading.enumerate())
    for raised, body in ((DiskError, lambda: None), (NonFiniteError, refuse)):
        with pytest.raises(raised), Keeper(tmp_path, World(), Noted(), every_seconds=60) as keeper:
            keeper(at(0, 1), True)
            body()
        assert set(threading.enumerate()) <= before


def refuse():
    raise NonFiniteError("the loss is not finite")


def test_within_a_phase_the_learned_model_is_not_written_each_time(tmp_path):
    """By what is on disk after five saves of 80 kB that change beside 40 kB that don't: two of each."""
    learned = ({"weight": torch.ones(10_000)}, {})
    with Keeper(tmp_path, World(), Noted(), every_seconds=0) as keeper:
        for step in range(5):
            health = Health(*map(torch.tensor, (step, -1, -1)))
            params, momentum = ({"weight": torch.full((10_000,), float(step))} for _ in range(2))
            state = TrainState(params, {}, momentum, health)
            training = Training(state, Measures(torch.tensor(0.0), torch.tensor(0)), Position(0, step), 0.0)
            keeper(lambda training=training: Progress(1, learned, {0: torch.arange(3)}, (), training), True)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.safetensors")}
    assert sorted(int(name[:8]) for name, size in sizes.items() if size > 80_000) == [3, 4]
    assert sorted(int(name[:8]) for name, size in sizes.items() if 40_000 < size < 80_000) == [0, 1]
    found, _ = checkpoint.newest(tmp_path)
    assert found.number == 4 and found.tree["learned"]["params"]["weight"].tolist() == [1.0] * 10_000
