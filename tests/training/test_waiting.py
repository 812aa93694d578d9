"""The meter of how long a training waits for its images."""

import pytest
import torch

from cil_func.training import waiting
from cil_func.training.waiting import Waiting


def waited(seconds: list[float], monkeypatch, *, workers: int | None, epoch: float) -> list[dict]:
    """The events of two epochs in each of which chunk k takes seconds[k] to come, and the epoch `epoch` seconds."""
    clock, events = [0.0], []

    def chunks():
        for each in seconds:
            clock[0] += each
            yield each

    monkeypatch.setattr(waiting.time, "perf_counter", lambda: clock[0])
    meter = Waiting(torch.device("cpu"), workers, events.append)
    for _ in range(2):
        for chunk in meter.around(chunks()):
            assert chunk in seconds
            clock[0] += 5.0  # a step, which is no waiting
        meter.end_epoch(epoch)
    return events


@pytest.mark.parametrize(("workers", "way"), [(2, "more data.workers?"), (0, "data.workers above 0?")])
def test_an_epoch_that_waits_long_is_told_once(workers, way, monkeypatch):
    (event,) = waited([1.0, 3.0, 2.2], monkeypatch, workers=workers, epoch=10.0)
    assert event["share"] == pytest.approx(0.62) and event["workers"] == workers
    assert event["message"] == f"data is the bottleneck: 62 % of the time waiting; {way}"


@pytest.mark.parametrize(("seconds", "workers"), [([1.0, 0.9], 2), ([6.0], None)])
def test_little_waiting_and_images_in_memory_are_not_told(seconds, workers, monkeypatch):
    assert not waited(seconds, monkeypatch, workers=workers, epoch=10.0)
