"""What is refused, by the real command in a process of its own: exit 2 or 3 and one line, and soon."""

import subprocess
import sys
from pathlib import Path

import pytest

import train
from benchmarks.reliability_helpers import bad_configurations, bad_folders

COMMAND = [sys.executable, str(Path(train.__file__))]
BAD = bad_configurations.configurations()


@pytest.fixture
def no_torch(tmp_path, monkeypatch):
    """Whoever imports torch in a process from here on gets this module, which ends it."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "torch.py").write_text("raise SystemExit('torch was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))


def answer(flags, folder):
    """(exit status, stdout, stderr). The time is far more than it may take: it ends what would never end."""
    done = subprocess.run(
        [*COMMAND, *flags], cwd=folder, capture_output=True, text=True, errors="surrogateescape", timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["misspelt", "type string", "out of range", "not finite", "in a list, type array"])
def test_a_bad_configuration_is_answered_before_torch_is_imported(kind, tmp_path, no_torch):
    for in_file in (False, True):
        case = next(case for case in BAD if case.kind == kind and case.in_file == in_file)
        status, stdout, stderr = answer(case.flags(tmp_path), tmp_path)
        assert bad_configurations.fault(status, stderr, expected=2, says=case.says) == "", case.text
        assert stdout == "" and not (tmp_path / "runs").exists()


def test_torch_would_have_been_missed(tmp_path, no_torch):
    """The proof of the test above: without a mistake the command does import it."""
    status, _, stderr = answer(["--dry-run"], tmp_path)
    assert status == 1 and "torch was imported" in stderr


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("pipe", "line break"),  # which must not be waited for
        ("99 samples a pixel", "no UTF-8"),  # of which Pillow would print a line of its own
    ],
)
def test_a_bad_folder_is_exit_3_and_one_line(damage, place, tmp_path):
    case = bad_folders.damaged(damage, place)
    status, _, stderr = answer([*case.flags(tmp_path / "images"), "--dry-run"], tmp_path)
    assert bad_configurations.fault(status, stderr, expected=3, says=case.says) == ""
