"""What processes publish about their activity, and which of them hangs."""

import math

import fake_cuda
import pytest
import torch

from cil_func.parallel import activity
from cil_func.parallel.activity import Activity, ActivityRecord

TIMEOUT = 10.0


def still(*records: tuple[ActivityRecord, float]) -> dict:
    return dict(enumerate(records))


WAITS, BEHIND = ActivityRecord(host=7), ActivityRecord(host=6)  # in its fourth collective, and before it
COMPILES = ActivityRecord(host=6, work="compiling", at_most_seconds=3600.0)


@pytest.mark.parametrize(
    ("records", "rank"),
    [
        ([(WAITS, 11), (BEHIND, 12)], 1),
        ([(BEHIND, 10), (WAITS, 10), (WAITS, 99)], 0),
        ([(WAITS, 11), (ActivityRecord(host=2), 12), (ActivityRecord(host=4), 99)], 1),  # the furthest behind of two
        ([(WAITS, 4000), (COMPILES, 3600)], 1),
        ([(WAITS, 11), (ActivityRecord(host=6, work="saving", at_most_seconds=5.0), 12)], 1),
        # a GPU: the hosts have run ahead to the same place, and the device of rank 0 never came to its collective
        ([(ActivityRecord(device=200, host=4, ticks=107), 11), (ActivityRecord(device=201, host=4, ticks=107), 11)], 0),
        # the host of rank 1 hangs, and that of rank 0 waits for its device without saying so
        ([(ActivityRecord(device=201, host=4, ticks=104), 11), (ActivityRecord(device=200, host=4, ticks=100), 11)], 1),
        ([(WAITS, 11), (WAITS, 12)], None),  # the connection
    ],
)
def test_the_process_that_hangs_is_found(records, rank):
    found = activity.find_hanging(still(*records), TIMEOUT)
    assert found and found[0] == rank
    assert ("while compiling" in found[1]) is any(record is COMPILES for record, _ in records)


@pytest.mark.parametrize(
    "records",
    [
        [(WAITS, 11), (BEHIND, 9)],  # it has moved, or said that it works
        [(WAITS, 9), (BEHIND, 11)],  # nobody has waited for long
        [(WAITS, 170), (COMPILES, 170)],
        [(WAITS, 3 * 86_400), (ActivityRecord(host=6, work="data", at_most_seconds=math.inf), 3 * 86_400)],
        [(ActivityRecord(host=6), 99), (ActivityRecord(host=6), 99)],  # both do the same long work
        [(ActivityRecord(host=8), 99), (ActivityRecord(host=6), 99)],  # ahead, and at work itself
        [(WAITS, 11), (BEHIND, 9), (WAITS, 11)],
        [],
    ],
)
def test_a_process_that_may_be_working_is_not_reported_as_hanging(records):
    assert activity.find_hanging(still(*records), TIMEOUT) is None


def test_a_record_survives_the_way_through_text():
    for record in (ActivityRecord(), ActivityRecord(3, 4, 5, "data", math.inf)):
        assert activity.from_text(activity.to_text(record)) == record


def test_a_collective_counts_at_start_and_end_and_only_at_its_start_if_it_raises():
    own = Activity()
    with own.collective():
        assert own.record() == ActivityRecord(host=1) and own.record().waits
    assert own.record() == ActivityRecord(host=2) and not own.record().waits
    with pytest.raises(ZeroDivisionError), own.collective():
        raise ZeroDivisionError
    assert own.record() == ActivityRecord(host=3)


def test_work_is_announced_while_it_lasts_even_if_it_raises():
    own = Activity()
    with pytest.raises(ZeroDivisionError), own.long_work("outer"):
        with own.long_work("inner", at_most_seconds=5.0):
            assert own.record()[3:] == ("inner", 5.0)
        assert own.record()[3:] == ("outer", 3600.0)
        raise ZeroDivisionError
    assert own.record() == ActivityRecord(ticks=2)  # each end is a sign of life


def test_a_graph_counts_its_collectives_at_each_replay(monkeypatch):
    """The main thread passes the collective once, when it is captured and nothing has run."""
    fake_cuda.install(monkeypatch)
    own, seen, graph, vector = Activity(), torch.zeros((), dtype=torch.int64), torch.cuda.CUDAGraph(), torch.zeros(3)
    own.count_with(torch.zeros((), dtype=torch.int64), seen)
    with torch.cuda.graph(graph), own.collective():
        vector.add_(1)
    assert own.record() == ActivityRecord()
    for _ in range(3):
        graph.replay()
    assert own.record() == ActivityRecord(device=6) and vector.tolist() == [3, 3, 3]
