"""A failing screen never ends a run."""

import json

from cil_func.runs import files, recording


class Broken:
    """A console that raises at each call."""

    def __init__(self, error: Exception):
        self.error, self.calls = error, 0

    def __call__(self, event):
        self.calls += 1
        raise self.error

    remember = close = __call__


def test_a_closed_output_is_ignored_and_a_failing_console_is_reported_once():
    gone, faulty = Broken(BrokenPipeError()), Broken(UnicodeEncodeError("ascii", "\u2501", 0, 1, "no"))
    for console, told in ((gone, 0), (faulty, 1)):
        screen = recording._Screen(console)
        assert sum(len(screen({"event": "epoch"})) for _ in range(3)) == told
    assert (gone.calls, faulty.calls) == (3, 1)


def test_a_log_that_cannot_be_read_only_spoils_the_time_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "a"}\nbroken\n{"event": "b"}\n')
    [problem] = recording._Screen(recording.console.make()).remember(path)
    assert "metrics.jsonl can't be read whole" in problem and "line 2" in problem
    path.write_text(json.dumps({"event": "phase_start"}) + "\n")  # of another program: without its fields
    assert len(recording._Screen(recording.console.make()).remember(path)) == 1


def test_cutting_never_makes_a_file_longer(tmp_path):
    path = tmp_path / "metrics.jsonl"
    recording._cut(path, 5)
    assert not path.exists()
    files.write_text(path, "1234567")
    for size, left in ((9, 7), (5, 5), (0, 0)):
        recording._cut(path, size)
        assert path.stat().st_size == left
