"""How far the processes are, and who of them hangs."""

import math

import fake_cuda
import pytest
import torch

from cil_func.parallel import places
from cil_func.parallel.places import Places, Record

TIMEOUT = 10.0


def still(*records: tuple[Record, float]) -> dict:
    return dict(enumerate(records))


WAITS, BEHIND = Record(host=7), Record(host=6)  # in its fourth collective, and before it
COMPILES = Record(host=6, work="compiling", at_most=3600.0)


@pytest.mark.parametrize(
    ("records", "rank"),
    [
        ([(WAITS, 11), (BEHIND, 12)], 1),
        ([(BEHIND, 10), (WAITS, 10), (WAITS, 99)], 0),
        ([(WAITS, 11), (Record(host=2), 12), (Record(host=4), 99)], 1),  # the furthest behind of two
        ([(WAITS, 4000), (COMPILES, 3600)], 1),
        ([(WAITS, 11), (Record(host=6, work="saving", at_most=5.0), 12)], 1),
        # a GPU: the hosts have run ahead to the same place, and the device of rank 0 never came to its collective
        ([(Record(device=200, host=4, ticks=107), 11), (Record(device=201, host=4, ticks=107), 11)], 0),
        # the host of rank 1 hangs, and that of rank 0 waits for its device without saying so
        ([(Record(device=201, host=4, ticks=104), 11), (Record(device=200, host=4, ticks=100), 11)], 1),
        ([(WAITS, 11), (WAITS, 12)], None),  # the connection
    ],
)
def test_the_one_that_hangs_is_found(records, rank):
    found = places.hanging(still(*records), TIMEOUT)
    assert found and found[0] == rank
    assert ("while compiling" in found[1]) is any(record is COMPILES for record, _ in records)


@pytest.mark.parametrize(
    "records",
    [
        [(WAITS, 11), (BEHIND, 9)],  # it has moved, or said that it works
        [(WAITS, 9), (BEHIND, 11)],  # nobody has waited for long
        [(WAITS, 170), (COMPILES, 170)],
        [(WAITS, 3 * 86_400), (Record(host=6, work="data", at_most=math.inf), 3 * 86_400)],
        [(Record(host=6), 99), (Record(host=6), 99)],  # both do the same long work
        [(Record(host=8), 99), (Record(host=6), 99)],  # ahead, and at work itself
        [(WAITS, 11), (BEHIND, 9), (WAITS, 11)],
        [],
    ],
)
def test_nobody_is_accused_who_may_be_at_work(records):
    assert places.hanging(still(*records), TIMEOUT) is None


def test_what_is_published_comes_back():
    for record in (Record(), Record(3, 4, 5, "data", math.inf)):
        assert places.unpack(places.pack(record)) == record


def test_a_collective_is_passed_in_two_places_and_one_that_raised_goes_on_waiting():
    own = Places()
    with own.collective():
        assert own.record() == Record(host=1) and own.record().waits
    assert own.record() == Record(host=2) and not own.record().waits
    with pytest.raises(ZeroDivisionError), own.collective():
        raise ZeroDivisionError
    assert own.record() == Record(host=3)


def test_work_is_announced_while_it_lasts_whatever_its_end():
    own = Places()
    with pytest.raises(ZeroDivisionError), own.working("outer"):
        with own.working("inner", at_most=5.0):
            assert own.record()[3:] == ("inner", 5.0)
        assert own.record()[3:] == ("outer", 3600.0)
        raise ZeroDivisionError
    assert own.record() == Record(ticks=2)  # each end is a sign of life


def test_a_graph_counts_its_collectives_at_each_replay(monkeypatch):
    """The host passes the collective once, when it is captured; nothing has run then."""
    fake_cuda.install(monkeypatch)
    own, seen, graph, vector = Places(), torch.zeros((), dtype=torch.int64), torch.cuda.CUDAGraph(), torch.zeros(3)
    own.count_on(torch.zeros((), dtype=torch.int64), seen)
    with torch.cuda.graph(graph), own.collective():
        vector.add_(1)
    assert own.record() == Record()
    for _ in range(3):
        graph.replay()
    assert own.record() == Record(device=6) and vector.tolist() == [3, 3, 3]
