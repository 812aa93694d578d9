"""What a command prints: to a pipe that nobody reads, to a full disk, and in an encoding that lacks its letters."""

import io
import json
import os
import subprocess
import sys
import tomllib

import launching
import pytest
import tiny

from cil_func.errors import DiskError
from cil_func.runs import output


def unread(*words: str) -> tuple[int, str]:
    """The exit status and stderr of a command whose stdout nobody reads, as of `| true`."""
    reads, writes = os.pipe()
    os.close(reads)
    env = {"PYTHONUNBUFFERED": ""}
    done = launching.run([sys.executable, *words], env=env, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--explain"], ["train.py", "--help"], ["-m", "cil_func", "train", "--print-config"],
        ["-m", "cil_func", "schema", "--help"],
    ],
)  # fmt: skip
def test_nobody_reads_what_the_command_that_trains_prints(words):
    assert unread(*words) == (0, "")


def test_nobody_reads_the_plan_the_training_or_the_table_of_a_finished_run(tmp_path):
    backbone = "model.backbone=tests/support/one_conv.py:make"
    flags = tiny.flags("data.increment=5", "optim.epochs=1", "run.device=cpu", "memory.size=20", backbone)
    for more in (["--dry-run"], [], []):
        assert unread("train.py", *flags, "--out", str(tmp_path / "run"), *more) == (0, "")
    assert launching.status(tmp_path / "run")["state"] == "finished"


def test_letters_that_the_encoding_lacks_are_escaped(monkeypatch):
    words = [sys.executable, "train.py", "--config", "folder", "--set", "data.path=B\u00fccher\U0001f600"]
    done = launching.run([*words, "--print-config"], env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r'"B\u00fccher\U0001f600"' in done.stdout
    assert tomllib.loads(done.stdout)["data"]["path"] == "B\u00fccher\U0001f600"
    held = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", held)
    output.prepare()
    output.show(json.dumps(["\u201c", "\udcff", "\u00fc"], ensure_ascii=False))
    assert json.loads(held.buffer.getvalue().decode("latin-1")) == ["\u201c", "\udcff", "\u00fc"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_line(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(DiskError, match="stdout: No space left on device"):
            output.show("text")
        output.end()
