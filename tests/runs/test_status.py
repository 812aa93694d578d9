"""status.json: what a run is doing or how it ended, and how old this information is."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from cil_func.runs import status
from cil_func.runs.status import Status


def test_status_has_the_start_and_how_the_run_ended(tmp_path):
    times = iter([100.0, 101.0, 102.0, 103.0, 104.0])
    kept = Status(tmp_path, clock=lambda: next(times))
    kept.running()
    found = status.read(tmp_path)
    assert found.pop("process_started") is None or status.lives(status.read(tmp_path))
    assert found == {"state": "running", "exit_code": None, "message": "", "started": 100.0, "updated": 101.0,
                     "pid": os.getpid(), "host": socket.gethostname()}  # fmt: skip
    for end, code, message in ((kept.failed, 3, "no such folder"), (kept.stopped, 130, "interrupted")):
        end(code, message)
        found = status.read(tmp_path)
        assert (found["state"], found["exit_code"], found["message"]) == (end.__name__, code, message)
    kept.finished()
    found = status.read(tmp_path)
    assert (found["state"], found["exit_code"]) == ("finished", 0)
    assert (found["started"], found["updated"]) == (100.0, 104.0)


def test_while_a_run_goes_on_it_is_renewed_and_after_its_end_never_again(tmp_path, monkeypatch):
    """Even if a person deletes the file, or the disk is full for a while."""
    written, write = threading.Semaphore(0), status.files.write_json
    refuse = []

    def noted(path, value):
        written.release()
        if refuse:
            raise refuse.pop()
        write(path, value)

    monkeypatch.setattr(status.files, "write_json", noted)
    kept = Status(tmp_path, renew_seconds=0.001)
    kept.running()
    refuse.append(status.DiskError("full"))
    (tmp_path / "status.json").unlink(missing_ok=True)
    for _ in range(10):
        assert written.acquire(timeout=30)
    before = status.read(tmp_path)
    assert before["state"] == "running"
    kept.finished()
    assert status.read(tmp_path)["state"] == "finished" and not kept._thread.is_alive()
    assert status.read(tmp_path)["updated"] >= before["updated"]


@pytest.mark.parametrize("text", [None, "{", "[]", '"running"'])
def test_a_missing_or_damaged_status_is_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert status.read(tmp_path) == {} and status.describe(status.read(tmp_path)) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (3e5, "3 days")],
)
def test_how_old_it_is(seconds, words):
    record = {"state": "running", "pid": 12, "host": "there", "updated": 1000.0}
    assert status.describe(record, clock=lambda: 1000.0 + seconds) == (
        f'status.json says "running", written by process 12 on there {words} ago'
    )
    assert status.describe({"state": "running"}).endswith("process - on - at an unknown time")


def test_whether_its_process_lives(tmp_path):
    code = "import sys; from cil_func.runs.status import Status; Status(sys.argv[1]).running(); print(flush=True)"
    code += "; input()"
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        record = status.read(tmp_path)
        assert record["pid"] == process.pid and status.lives(record)
        assert not status.lives(record | {"host": "elsewhere"})
        assert not status.lives(record | {"process_started": record["process_started"] - 1})  # a later one of its pid
        process.communicate(b"\n")
    assert not status.lives(record) and json.loads((tmp_path / "status.json").read_text())["state"] == "running"
    assert not status.lives({}) and not status.lives({"state": "running", "pid": os.getpid()})  # of an earlier version
