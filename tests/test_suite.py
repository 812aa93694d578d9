"""What keeps the suite fast and repeatable, so that it can't be lost without a word."""

import re
import sys
from pathlib import Path

import launching
import torch

import train

ROOT = Path(train.__file__).parent
FILES = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]


def test_the_readmes_command_runs_several_workers_and_a_file_on_one_of_them():
    """What a module's tests share, a whole run for most, is made once; the order is that of conftest.py."""
    (block,) = re.findall(r"```sh\n# set up and run the tests\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block.endswith(" && .venv/bin/python -m pytest -n 2 --dist=loadfile\n")
    assert "pytest-xdist" in (ROOT / "requirements.txt").read_text()
    assert "--no-loadscope-reorder" in (ROOT / ".pytest.ini").read_text()


def test_each_process_has_one_thread():
    code = "import torch; print(torch.get_num_threads())"
    done = launching.run([sys.executable, "-c", code])
    assert (torch.get_num_threads(), done.stdout) == (1, "1\n")


def test_no_port_is_fixed():
    """Two suites on one machine, or two workers of one, would meet there."""
    fixed = re.compile(r"(master_port=|127\.0\.0\.1:|localhost:)\d")
    assert [path.name for path in FILES if fixed.search(path.read_text())] == []


def test_one_test_compiles_by_inductor_and_one_on_a_gpu():
    counts = {path.relative_to(ROOT).as_posix(): path.read_text().count("@pytest.mark.inductor") for path in FILES}
    assert {name: count for name, count in counts.items() if count} == {"tests/training/test_runners.py": 2}


def test_packages_that_take_seconds_are_imported_where_they_are_used():
    """torch's compiler by the first gradient or meta tensor, scikit-learn for k-means; the digits need none."""
    slow = ("torch._dynamo", "sklearn", "continuum", "torchvision", "timm", "matplotlib")
    code = f"""
import sys
from cil_func.runs import run
print([name for name in {slow} if name in sys.modules])
import train
print(train.main(["--dry-run"]), [name for name in {slow[1:]} if name in sys.modules])
"""
    done = launching.run([sys.executable, "-c", code])
    assert done.stdout.splitlines()[0] == "[]" and done.stdout.splitlines()[-1] == "0 []", done.stderr
