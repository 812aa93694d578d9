"""A failing screen never ends a run."""

import errno
import io
import json
import sys

from cil_func.runs import files, recording


class Broken:
    """A console that raises at each call."""

    def __init__(self, error: Exception):
        self.error, self.calls, self.closed = error, 0, 0

    def __call__(self, event):
        self.calls += 1
        raise self.error

    def close(self):
        self.closed += 1
        raise self.error

    remember = __call__


def test_a_closed_output_is_ignored_and_a_failing_console_is_reported_once():
    gone, faulty = Broken(BrokenPipeError()), Broken(UnicodeEncodeError("ascii", "\u2501", 0, 1, "no"))
    for console, told in ((gone, 0), (faulty, 1)):
        screen = recording._Screen(console)
        assert sum(len(screen({"event": "epoch"})) for _ in range(3)) == told
    assert (gone.calls, gone.closed, faulty.calls, faulty.closed) == (1, 1, 1, 1)


class Terminal(io.StringIO):
    """A terminal that can be closed."""

    gone = False

    def write(self, text):
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_gone_gives_stdout_and_stderr_back_and_is_not_written_to_again(monkeypatch):
    """Else each event would draw all that the terminal hasn't taken, and more and more of it."""
    terminal, before = Terminal(), (sys.stdout, sys.stderr)
    console = recording.console.make(terminal, plain=False)
    screen = recording._Screen(console)
    screen({"event": "run_start"})
    terminal.gone = True
    assert (sys.stdout, sys.stderr) != before
    assert screen({"event": "warning", "message": "x"}) == []
    assert (sys.stdout, sys.stderr) == before
    held = len(console._screen._buffer)
    for _ in range(3):
        assert screen({"event": "warning", "message": "x"}) == []
    assert len(console._screen._buffer) == held


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
