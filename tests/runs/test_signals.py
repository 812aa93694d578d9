"""Signals: the first one is noted or stops the run at once, and a second one ends the process."""

import os
import signal
import threading

import pytest

from cil_func.errors import StoppedError
from cil_func.runs.signals import Signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_before_the_training_it_stops_wherever_it_is(number, status):
    with Signals() as signals, pytest.raises(StoppedError, match=number.name) as caught:
        send(number)
    assert caught.value.exit_status == status and signals.received == number


def test_deferred_it_leaves_a_note_and_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        signals.defer()
        assert signals.received == 0
        send(signal.SIGINT)
        assert signals.received == signal.SIGINT
        send(signal.SIGTERM)  # within a second: the launcher passes on what the terminal sent
        assert signals.received == signal.SIGINT
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_release_raises_for_an_earlier_signal_and_lets_later_ones_raise():
    with Signals() as signals:
        signals.defer()
        signals.release()
        with pytest.raises(StoppedError) as caught:
            send(signal.SIGTERM)
        assert caught.value.exit_status == 143
    with Signals() as signals:
        signals.defer()
        send(signal.SIGINT)
        with pytest.raises(StoppedError) as caught:
            signals.release()
        assert caught.value.exit_status == 130


def test_a_process_that_nohup_has_started_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            send(signal.SIGHUP)
        assert signals.received == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_one_ends_the_process(monkeypatch):
    ended, told, now = [], [], [0.0]
    monkeypatch.setattr("cil_func.runs.signals.os._exit", ended.append)
    monkeypatch.setattr("cil_func.runs.signals.time.monotonic", lambda: now[0])
    with Signals(at_once=told.append) as signals:
        signals.defer()
        send(signal.SIGTERM)
        now[0] = 0.9
        send(signal.SIGTERM)
        assert not ended
        now[0] = 1.1
        send(signal.SIGTERM)
    assert (ended, told) == ([143], [143])


def test_a_run_that_ends_already_is_left_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("cil_func.runs.signals.time.monotonic", lambda: now[0])
    with Signals() as signals:
        signals.ignore_more()
        send(signal.SIGTERM)
        now[0] = 5.0
        send(signal.SIGTERM)
    assert signals.received == 0


def test_outside_the_main_thread_nothing_is_changed():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with Signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
