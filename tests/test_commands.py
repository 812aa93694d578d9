"""The one door: what it lists, that each command is the function it names, and unknown commands."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import train
from cil_func import __main__ as door

ROOT = Path(train.__file__).parent


def test_without_a_command_all_are_listed(capsys):
    assert door.main([]) == door.main(["--help"]) == 0
    once, again = (part for part in capsys.readouterr().out.split("python -m cil_func COMMAND ...\n") if part)
    assert once == again
    for name, command in door.COMMANDS.items():
        assert f"\n  {name}" in once and command.does in once


@pytest.mark.parametrize("name", door.COMMANDS)
def test_every_command_exists(name, capsys):
    """Its --help ends it, as argparse's does."""
    module, _, function = door.COMMANDS[name].target.partition(":")
    assert callable(getattr(import_module(module), function))
    with pytest.raises(SystemExit) as end:
        door.main([name, "--help"])
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trian", 'cil_func: "trian" is no command; did you mean train?\n'),
        ("zzz", 'cil_func: "zzz" is no command; there are ALL\n'),
        ("--trainn", 'cil_func: "--trainn" is no command; did you mean train?\n'),
        ("a\nb", 'cil_func: "a\\nb" is no command; there are ALL\n'),
    ],
)
def test_an_unknown_command_names_the_nearest(word, line, capsys):
    assert door.main([word]) == 2
    assert capsys.readouterr() == ("", line.replace("ALL", ", ".join(door.COMMANDS)))


def test_train_is_train_py(capsys):
    flags = ["--print-config", "--set", "optim.epochs=3"]
    assert door.main(["train", *flags]) == 0
    printed = capsys.readouterr().out
    assert train.main(flags) == 0 and capsys.readouterr().out == printed and "epochs = 3" in printed
    assert door.main(["train", "--set", "optim.epoch=3"]) == 2
    assert capsys.readouterr().err == "train.py: --set optim.epoch: unknown key; did you mean optim.epochs?\n"


def test_nobody_reads_what_a_command_prints():
    """As of `python -m cil_func | head -0`: no traceback."""
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", "cil_func"]
    done = subprocess.run(words, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_real_command_imports_only_what_it_needs():
    code = "import sys, cil_func.__main__ as door; door.main(['schema', '--markdown']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    done = subprocess.run([sys.executable, "-m", "cil_func", "repotr"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and "did you mean report?" in done.stderr


def test_the_package_says_that_it_has_types():
    assert (ROOT / "cil_func/py.typed").read_bytes() == b""


def test_a_failure_keeps_its_exit_status_though_nobody_reads_the_output():
    reads, writes = os.pipe()
    os.close(reads)
    code = "from cil_func import __main__ as door; door.main = lambda: print('half') or 3; door.command()"
    words, env = [sys.executable, "-c", code], os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(words, cwd=ROOT, env=env, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (3, "")
