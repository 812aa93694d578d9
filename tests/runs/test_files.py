"""Files that are complete or absent, and what the disk refuses."""

import errno
import json
import os
import stat

import numpy as np
import pytest

from cil_func.errors import DiskError
from cil_func.runs import files


def test_json_is_strict_readable_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "results.json"
    odd = os.fsdecode(b"\xff.png")  # a file name that is no UTF-8
    value = {"top1": np.float32(0.5), "matrix": np.ones((1, 2)), "name": "Größe", "gamma": None, "file": odd}
    files.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n") and "Größe" in text
    assert json.loads(text) == {"top1": 0.5, "matrix": [[1.0, 1.0]], "name": "Größe", "gamma": None, "file": odd}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_json_refuses_a_number_that_is_not_finite_and_names_it(tmp_path, bad):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match=r"phases\[1\]: top1.*not finite"):
        files.write_json(path, {"phases": [{"top1": 1.0}, {"top1": bad}]})
    assert json.loads(path.read_text()) == {"old": 1}


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, broken):
    path = tmp_path / "results.json"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(DiskError, match=r"results\.json: No space left on device; free some space") as caught:
        files.write_text(path, "new")
    assert caught.value.exit_status == 74 and "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; mount it"),
        (errno.EACCES, "Permission denied; ask"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_an_error_of_the_disk_becomes_one_line_with_advice(code, says):
    with pytest.raises(DiskError, match=says), files.disk_errors("a/b"):
        raise OSError(code, os.strerror(code))
    with pytest.raises(KeyError), files.disk_errors("a/b"):
        raise KeyError  # nothing else is touched


def test_a_missing_folder_is_an_error_of_one_line(tmp_path):
    with pytest.raises(DiskError, match=r"no/x: No such file or directory; make its folder"):
        files.write_text(tmp_path / "no" / "x", "new")


def test_the_new_file_appears_only_by_a_rename_after_its_bytes_are_on_disk(tmp_path, monkeypatch):
    path, calls = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"replace {path.exists()}"), replace(a, b)))
    files.write_text(path, "x")
    assert calls[:2] == ["fsync", "replace False"]


def opened_and_synced(monkeypatch) -> list[str]:
    """Returns a list to which each folder that is opened for a sync is added, and "fsync" for each sync."""
    calls, real_open, real_fsync = [], os.open, os.fsync
    monkeypatch.setattr(os, "open", lambda path, *rest: (calls.append(os.fspath(path)), real_open(path, *rest))[1])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), real_fsync(descriptor)))
    return calls


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    calls = opened_and_synced(monkeypatch)
    files.write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", str(tmp_path), "fsync"]


def test_a_new_folder_is_synced_into_the_one_above_it_once(tmp_path, monkeypatch):
    calls = opened_and_synced(monkeypatch)
    files.make_directory(tmp_path / "checkpoints")
    assert calls == [str(tmp_path), "fsync"] and (tmp_path / "checkpoints").is_dir()
    files.make_directory(tmp_path / "checkpoints")
    assert len(calls) == 2
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file: File exists"):
        files.make_directory(tmp_path / "file")


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_a_failure_where_the_disk_is_the_cause(tmp_path, monkeypatch, code, fails):
    def refuse(path, *rest):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    if fails:
        with pytest.raises(DiskError):
            files.write_text(tmp_path / "a.txt", "x")
    else:
        files.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_a_written_file_has_the_rights_that_the_umask_gives(tmp_path):
    old = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path, monkeypatch):
    """The name of a temporary file is taken from `write_bytes` itself."""
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(source), replace(source, target)))
    files.write_text(tmp_path / "results.json", "x")
    left = seen[0]
    left.write_text("half")
    others = [".lock", ".x.tmp", "x.1.tmp", ".results.json.swp"]
    for name in others:
        (tmp_path / name).touch()
    files.remove_temporary_files(tmp_path, tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "results.json"])


@pytest.mark.parametrize(
    ("text", "found"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ('{"a": ', {}), (None, {}), ("\udcff", {})]
)
def test_an_object_is_read_or_nothing(text, found, tmp_path):
    if text is not None:
        (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert files.read_object(tmp_path / "a.json") == found
