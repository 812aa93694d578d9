"""The experiments with failing saves notice every careless way to save."""

import errno
import os
import re
from pathlib import Path

import pytest

from benchmarks.reliability_helpers import damage, failing_saves
from benchmarks.reliability_helpers.faulty_disk import Crash, Disk
from cil_func.errors import DiskError
from cil_func.runs import checkpoint_files, checkpoints, files, packing


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        checkpoints.save(tmp_path / "checkpoints", *damage.example(number)[:2], number=number)
    return tmp_path / "checkpoints"


def missed(folder: Path, save) -> str:
    """Returns all failures that crashes during a save show, as one text."""
    new = damage.example(3)
    return "\n".join(failing_saves.crash_at_every_call(folder, new, scratch=folder.parent / "s", save=save).failures)


def parts(folder: Path, tree, record, number: int) -> list[tuple[Path, bytes]]:
    """Returns the files that a save has to write, in order, with their bytes."""
    branches = [{key: branch} for key, branch in tree.items()]
    parts = [packing.describe_part(branch, number=number) for branch in branches]
    data = [b"".join(map(bytes, packing.chunks(branch))) for branch in branches]
    names = [folder / checkpoint_files.part_name(part) for part in parts]
    manifest = packing.pack_manifest(parts, record, number=number)
    return [*zip(names, data, strict=True), (folder / f"{number:08d}.json", manifest)]


def test_a_careful_save_passes_and_one_that_syncs_no_bytes_is_found_out(folder):
    def save(folder, tree, record, *, number):
        for path, data in parts(folder, tree, record, number):
            (folder / ".new.1.tmp").write_bytes(data)
            os.replace(folder / ".new.1.tmp", path)
            files._sync_directory(folder)

    assert missed(folder, checkpoints.save) == ""
    found = missed(folder, save).splitlines()
    assert found and all("unsynced bytes" in line for line in found)


def test_a_save_that_syncs_no_folder_is_found_out(folder, monkeypatch):
    monkeypatch.setattr(files, "_sync_directory", lambda directory: None)
    found = missed(folder, checkpoints.save).splitlines()
    assert found and all("unsynced bytes and names lost: checkpoint 2 was found" in line for line in found)


def test_a_save_over_the_only_checkpoint_is_found_out(folder):
    """It uses one file name for all numbers and writes in place."""

    def save(folder, tree, record, *, number):
        for path in folder.iterdir():
            path.unlink()
        for path, data in parts(folder, tree, record, number):
            files.write_bytes(path, data)

    assert "killed: nothing was found" in missed(folder, save)


def test_a_save_that_swallows_a_crash_is_found_out(folder):
    def save(folder, tree, record, *, number):
        try:
            checkpoints.save(folder, tree, record, number=number)
        except BaseException:
            return

    assert "raised None" in missed(folder, save)


def test_leftovers_that_stay_are_found_out(folder, monkeypatch):
    monkeypatch.setattr(files, "_TEMPORARY", re.compile("never"))
    monkeypatch.setattr(files.os, "getpid", iter(range(10**6)).__next__)  # a process of its own for each write
    assert ".tmp is left" in missed(folder, checkpoints.save)


@pytest.mark.parametrize(
    ("careless", "says"),
    [
        (lambda error: None, "raised None|other contents"),
        (lambda error: error, "raised OSError"),
    ],
    ids=["swallows", "passes on"],
)
def test_a_save_that_raises_another_error_is_found_out(folder, careless, says):
    def save(folder, tree, record, *, number):
        try:
            checkpoints.save(folder, tree, record, number=number)
        except DiskError as error:
            if careless(error):
                raise error.__cause__ from None

    new, error, scratch = damage.example(3), OSError(errno.EROFS, "Read-only"), folder.parent / "s"
    tally = failing_saves.fail_at_every_call(folder, new, error, scratch=scratch, save=save)
    assert tally.failures and all(re.search(says, line) for line in tally.failures)
    tally = failing_saves.disk_full(folder, new, 3, scratch=scratch, save=save)
    assert len(tally.failures) == 3 and all("raised" in line for line in tally.failures)


def test_data_that_stay_on_a_full_disk_are_found_out(folder):
    def save(folder, tree, record, *, number):
        for path, data in parts(folder, tree, record, number):
            files.write_bytes(path, data)

    new, scratch = damage.example(3), folder.parent / "s"
    found = failing_saves.disk_full(folder, new, 5, scratch=scratch, save=save).failures
    assert found and "the folder changed" in found[-1]
    error = OSError(errno.EIO, "I/O error")
    found = failing_saves.fail_at_every_call(folder, new, error, scratch=scratch, save=save).failures
    assert any("the folder changed" in line for line in found)


def test_a_real_disk_is_not_filled(folder, monkeypatch):
    monkeypatch.setattr(failing_saves, "SMALL", 1)
    with pytest.raises(ValueError, match="bytes are free"):
        failing_saves.disk_really_full(folder, damage.example(3), 1)
    assert not (folder.parent / "ballast").exists()


def test_the_disk_counts_every_call_and_keeps_what_was_flushed(tmp_path):
    def work():
        with open(tmp_path / "a", "wb") as file:  # 0 open
            file.write(b"12345678")               # 1
            file.flush()                          # 2
            os.fsync(file.fileno())               # 3
            file.write(b"9")                      # 4
        os.replace(tmp_path / "a", tmp_path / "b")  # 5 flush, 6 close, 7 replace

    disk = Disk(tmp_path)
    with disk.installed():
        work()
    assert disk.calls == 8 and (tmp_path / "b").read_bytes() == b"123456789"
    cases = [(0, "before", {}), (0, "after", {"a": b""}), (1, "after", {"a": b""}), (2, "half", {"a": b"1234"}),
             (4, "after", {"a": b"12345678"}), (5, "after", {"a": b"123456789"}), (7, "before", {"a": b"123456789"}),
             (7, "after", {"b": b"123456789"})]  # fmt: skip
    for at, when, left in cases:
        for path in tmp_path.iterdir():
            path.unlink()
        disk = Disk(tmp_path, at=at, when=when)
        with disk.installed(), pytest.raises(Crash):
            work()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
        disk.power_cut(names=False)
        lost = dict.fromkeys(left, b"12345678" if at > 3 else b"")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == lost
        disk.power_cut(names=True)
        assert list(tmp_path.iterdir()) == []


def test_the_disk_refuses_calls_that_it_does_not_simulate(tmp_path):
    with Disk(tmp_path).installed():
        with pytest.raises(NotImplementedError, match=r"os\.link"):
            os.link(tmp_path / "a", tmp_path / "b")
        with pytest.raises(NotImplementedError, match="mode 'a'"):
            Path.open(tmp_path / "a", "a")
    with open(tmp_path / "a", "a") as file:  # and nothing of it stays
        file.write("x")
