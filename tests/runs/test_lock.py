"""The lock of a run directory: which process gets it, and when."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cil_func.errors import DiskError, InUseError
from cil_func.runs import lock

ROOT = Path(lock.__file__).parents[2]
HOLD = """
import os, subprocess, sys
from cil_func.runs import lock
with lock.lock_directory(sys.argv[1]):
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.write(1, b"ready\\n")
        sys.stdin.read()
        os._exit(0)
    if sys.argv[2] == "start":
        subprocess.Popen([sys.executable, "-c", "import os; os.write(1, b'ready\\\\n'); input()"], close_fds=False)
    os.write(1, b"held\\n")
    sys.stdin.read()
"""


def holder(directory: Path, *, child: str = "") -> subprocess.Popen:
    """Starts a process that has the lock until its stdin is closed, and has a child that lives as long."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    said = {process.stdout.readline() for _ in range(2 if child else 1)}
    assert b"held\n" in said
    return process


def test_a_directory_in_use_is_refused_and_the_process_is_named(tmp_path):
    process = holder(tmp_path)
    says = f"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}; wait for it, or choose another"
    for _ in range(2):  # an attempt changes nothing
        with pytest.raises(InUseError) as caught, lock.lock_directory(tmp_path):
            pytest.fail("two hold it")
        assert str(caught.value) == f"{says} --out" and caught.value.exit_status == 6
    process.communicate(timeout=60)
    with lock.lock_directory(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free_at_once_and_its_name_replaced(tmp_path):
    process = holder(tmp_path)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    with open(tmp_path / lock.NAME, "a") as file:
        file.write("and a name that is longer than ours")
    with lock.lock_directory(tmp_path):
        assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    process.communicate()


@pytest.mark.parametrize("child", ["fork", "start"])
def test_children_of_a_killed_process_do_not_keep_its_lock(tmp_path, child):
    process = holder(tmp_path, child=child)
    process.kill()
    process.wait(60)
    with lock.lock_directory(tmp_path):
        os.set_blocking(process.stdout.fileno(), False)
        assert process.stdout.raw.read() is None  # no end of the file: the child is there
        os.set_blocking(process.stdout.fileno(), True)
    process.communicate(timeout=60)


def test_a_forked_child_does_not_free_the_lock_of_its_parent(tmp_path):
    parent = os.getpid()
    try:
        with lock.lock_directory(tmp_path):
            child = os.fork()
            if child == 0:
                raise LookupError  # out of the block, in the child
            assert os.waitpid(child, 0)[1] == 0
            with pytest.raises(InUseError), lock.lock_directory(tmp_path):
                pytest.fail("two hold it")
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(0 if isinstance(error, LookupError) else 1)
        raise


def test_a_process_cannot_lock_twice_but_again_after_release(tmp_path):
    named = pytest.raises(InUseError, match=f"process {os.getpid()} ")
    with lock.lock_directory(tmp_path), named, lock.lock_directory(tmp_path):
        pytest.fail("two hold it")
    with pytest.raises(KeyError), lock.lock_directory(tmp_path):
        raise KeyError
    before = len(os.listdir("/dev/fd"))
    with lock.lock_directory(tmp_path):
        assert len(os.listdir("/dev/fd")) == before + 1
    assert len(os.listdir("/dev/fd")) == before and lock._held == set()


def test_other_directories_are_free(tmp_path):
    (tmp_path / "other").mkdir()
    with lock.lock_directory(tmp_path), lock.lock_directory(tmp_path / "other"):
        pass


@pytest.fixture
def locked_file(tmp_path):
    """Returns a context manager in which the file is locked by a process whose name isn't in it."""
    with open(tmp_path / lock.NAME, "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_without_a_name_yet_is_waited_for(locked_file, tmp_path, monkeypatch):
    """The file still names the process that had the lock before, which is dead."""
    locked_file.write(f"{dead_pid()} {socket.gethostname()}\n")
    locked_file.flush()

    def write_the_name(_):
        locked_file.seek(0)
        locked_file.write(f"{os.getppid()} {socket.gethostname()}\n")
        locked_file.truncate()
        locked_file.flush()

    monkeypatch.setattr(lock.time, "sleep", write_the_name)
    with pytest.raises(InUseError, match=f"process {os.getppid()} on "), lock.lock_directory(tmp_path):
        pytest.fail("two hold it")


@pytest.mark.parametrize("text", ["", "x y\n", "12\n", "9" * 50 + f" {socket.gethostname()}\n"])
def test_a_lock_without_a_readable_name_belongs_to_another_process(locked_file, tmp_path, text, monkeypatch):
    locked_file.write(text)
    locked_file.flush()
    monkeypatch.setattr(lock, "_PATIENCE", 0.01)
    with pytest.raises(InUseError, match="in use by another process; wait"), lock.lock_directory(tmp_path):
        pytest.fail("two hold it")


def test_a_process_on_another_machine_counts_as_alive(locked_file, tmp_path):
    locked_file.write(f"{dead_pid()} elsewhere.example\n")
    locked_file.flush()
    with pytest.raises(InUseError, match=r"on elsewhere\.example"), lock.lock_directory(tmp_path):
        pytest.fail("two hold it")


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(RuntimeWarning, match=r"can't be locked \(No locks available\)"), lock.lock_directory(tmp_path):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.undo()
        with lock.lock_directory(tmp_path):
            pass


def test_without_flock_the_module_can_be_imported_and_a_lock_is_refused_in_one_line(tmp_path):
    """Simulates Windows, which has no fcntl and no fork."""
    code = f"""
import os, sys
sys.modules["fcntl"] = None
del os.register_at_fork
from cil_func.errors import MachineError
from cil_func.runs import lock
try:
    with lock.lock_directory({str(tmp_path)!r}):
        pass
except MachineError as error:
    print(error.exit_status, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    expected = f"2 {tmp_path} can't be locked: this system has no flock; train on Linux, macOS or in WSL\n"
    assert (done.stdout, list(tmp_path.iterdir())) == (expected, []), done.stderr


@pytest.mark.parametrize("place", ["missing", "file/below"])
def test_a_lock_that_cannot_be_written_is_exit_74(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"\.lock: N.* directory") as caught, lock.lock_directory(tmp_path / place):
        pytest.fail("held nothing")
    assert caught.value.exit_status == 74 and lock._held == set()
