"""What the commands do where stdout is closed, full, read by nobody, or can't hold a letter."""

import io
import json
import os
import sys
from contextlib import contextmanager

import pytest
from model_copies import changed, with_classes

from cil_func import __main__ as door
from cil_func.runs import checkpoints

full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")


@contextmanager
def unread():
    """Returns a context manager that yields a stream whose pipe nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        yield stream


def ended(monkeypatch, *words):
    """The exit status of the whole command, as the process would end with it."""
    monkeypatch.setattr(sys, "argv", ["cil_func", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        door.command()
    return end.value.code


@pytest.fixture
def exchanged(runs, tmp_path):
    """The run "wa", and a copy of its model with the names of its classes in another order."""
    run = runs["wa"].directory
    names = [entry["name"] for entry in checkpoints.load_model(run).description["classes"]]
    return run, changed(run, tmp_path / "new", lambda saved: with_classes(saved, [*names[1:], names[0]]))


@pytest.mark.parametrize("flag", ["--json", "--device=cpu"])
def test_a_fall_is_told_whoever_reads_stdout(exchanged, monkeypatch, capsys, flag):
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert ended(monkeypatch, "compare", *exchanged, "--worse-by=0", flag) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(" has fallen by " in line for line in lines)


def test_a_fall_has_its_status_though_nobody_reads_stderr(exchanged, monkeypatch):
    with unread() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert ended(monkeypatch, "compare", *exchanged, "--worse-by=0") == 1


def test_what_cannot_be_read_is_told_whoever_reads_stdout(runs, monkeypatch, capsys, tmp_path):
    words = runs["wa"].copy, tmp_path / "gone.png", runs["wa"].images / "test"
    for flags in ([], ["--json"]):
        with unread() as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert ended(monkeypatch, "predict", *words, *flags) == 3
        assert capsys.readouterr().err == f"predict: {words[1]}: there is no such file or folder\n"


def test_a_report_that_nobody_reads_keeps_its_status(runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("cil_func.report.contents.figures.matrix", lambda results: 1 / 0)
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert ended(monkeypatch, "report", runs["wa"].directory, "--out", tmp_path / "report") == 1
    assert "matrix.svg can't be drawn" in capsys.readouterr().err


@full_disk
def test_the_list_of_commands_on_a_full_disk(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert ended(monkeypatch) == 74
    assert capsys.readouterr().err == "cil_func: stdout: No space left on device; free some space\n"


@full_disk
def test_a_full_disk_is_one_line(runs, monkeypatch, capsys):
    for words in (["predict", runs["wa"].copy, runs["wa"].images], ["compare", *[runs["wa"].directory] * 2]):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert ended(monkeypatch, *words) == 74
        assert capsys.readouterr().err == f"{words[0]}: stdout: No space left on device; free some space\n"


def test_without_stdout_the_status_says_it(exchanged, runs, monkeypatch, capsys):
    for words, status in ((["predict", runs["wa"].copy, runs["wa"].images], 0), (["compare", *exchanged], 0),
                          (["compare", *exchanged, "--worse-by", 0], 1), (["methods"], 0)):  # fmt: skip
        monkeypatch.setattr(sys, "stdout", None)
        assert ended(monkeypatch, *words) == status
    assert "Error" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_letters_that_stdout_cannot_hold(runs, monkeypatch, capsys, tmp_path, encoding):
    """Also bytes of a name that are no UTF-8."""
    new = tmp_path / "odd\udcff"
    changed(runs["wa"].directory, new, lambda saved: with_classes(saved, ["käse", "b", "c", "d"]))
    (tmp_path / "names").mkdir()
    (tmp_path / "names/käse").symlink_to(runs["wa"].images / "test/class000")

    def printed(*words):
        held = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding=encoding))
        assert ended(monkeypatch, *words) == 0
        return held.getvalue().decode(encoding)

    line = printed("predict", new, tmp_path / "names", "--top", "4").splitlines()[0]
    assert ("k\\u00e4se" if encoding == "ascii" else "käse") in line.split("\t")
    found = json.loads(printed("compare", new, new, "--json", "--data", tmp_path / "names"))
    assert found["models"]["before"] == str(new) and found["classes"][0]["name"] == "käse"
    capsys.readouterr()
