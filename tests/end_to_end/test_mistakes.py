"""What people get wrong on the command line: one clear line, the right exit status, nothing lost."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import interrupts
import one_conv
import pytest
import reference
import tiny

import train
from cil_func import experiment
from cil_func.config import names
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs import lock, setup

ROOT = Path(train.__file__).parent
pytestmark = pytest.mark.usefixtures("shallow")
QUICK = tiny.flags(
    "optim.epochs=1", "data.increment=5", "optim.batch_size=30", f"model.backbone={one_conv.NAME}"
)  # fmt: skip


def one_line(capsys) -> str:
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--confg", "cifar.toml"], "--confg"),
        (["--config", "cifr.toml"], "cifar"),
        (["--set", "optim.epoch=3"], "optim.epochs"),
        (["--explain", "optim.epoch"], "optim.epochs"),
        (["--set", "optim.epochs=0"], "optim.epochs"),
        (["--set", "optim.epochs"], "="),
        (["--set", "method.name=wq"], '"wa"'),
        (["--set", "method.kd_combination=convex"], "method.kd_weight"),
        (["--set", "augment.auto_augment=rand-k9"], "augment.auto_augment"),
        (["--set", "data.name=image_folder"], "data.path"),
        (["--set", "model.backbone=timm:resnet1000"], "timm"),
        (["--set", "run.device=cuda"], "cuda"),
    ],
)
def test_exit_2_for_what_the_configuration_shows(flags, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # the last case, where there is a GPU too
    assert train.main([*flags, "--out", str(tmp_path / "run")]) == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.increment=11"], "data.increment"),
        (["data.class_order=[0, 1, 2]"], "data.class_order"),
        (["data.name=image_folder", "data.path=/nowhere"], "/nowhere"),
        (["memory.size=5"], "memory.size"),
    ],
)
def test_exit_3_for_what_the_data_show_and_the_directory_can_be_used_again(overrides, says, tmp_path, capsys):
    flags = [flag for override in overrides for flag in ("--set", override)]
    assert train.main([*flags, "--out", str(tmp_path / "run")]) == 3
    assert says in one_line(capsys)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 0


def test_a_gpu_that_is_passed_over_is_told_on_the_screen_and_in_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cil_func.training.gpus.passed_over", lambda numbers: "no GPU is used")
    assert train.main([*QUICK, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "train.py: warning: no GPU is used\n"
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event["message"] for event in events if event["event"] == "warning"] == ["no GPU is used"]
    assert train.main([*QUICK, "--dry-run", "--set", "run.device=cpu", "--out", str(tmp_path / "plan")]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--config", "--out", "--extend"])
def test_an_empty_name_is_no_name(flag, capsys):
    """That of an unset variable would be the preset of the digits, or the current directory."""
    assert train.main([flag, "", "--print-config"]) == 2
    assert f"argument {flag}: empty, as an unset variable is" in one_line(capsys)


def test_a_directory_that_holds_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    """The same command prints its table, another configuration is refused with what differs."""
    assert train.main([*QUICK, "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    table = capsys.readouterr().out.partition("\nphase seen")[2].splitlines()
    assert train.main([*QUICK, "--out", str(tmp_path)]) == 0
    again = capsys.readouterr()
    assert "finished" in again.out and table[-3] in again.out and not again.err
    flags = ["--set", "optim.momentum=0.5", "--set", "run.device=cpu", "--set", "method.align=false"]
    assert train.main([*QUICK, *flags, "--out", str(tmp_path)]) == 2
    told = one_line(capsys)
    assert "method.align is true there and false here, optim.momentum is 0.9 there and 0.5 here" in told
    assert "run.device" not in told  # "auto" became cpu there
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_is_left_of_a_run_without_its_configuration_is_not_written_over(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    assert train.main([*QUICK, "--out", str(tmp_path)]) == 2
    assert "config.toml" in one_line(capsys)


def test_exit_6_while_another_process_works_in_the_directory(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with lock.lock_directory(tmp_path / "run"):
        assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 6
    assert f"process {os.getpid()}" in one_line(capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_file_in_place_of_the_run_directory(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["--out", str(tmp_path / "file" / "run")]) == 2
    assert "--out" in one_line(capsys)


def test_exit_4_for_a_loss_that_is_not_finite(tmp_path, capsys):
    flags = [*QUICK, "--set", "optim.learning_rate=1e30", "--out", str(tmp_path / "run")]
    assert train.main(flags) == 4
    assert "phase 0" in one_line(capsys)
    assert json.loads((tmp_path / "run/status.json").read_text())["exit_code"] == 4


def test_exit_130_for_an_interrupt_and_what_was_earned_stays(tmp_path, capsys, monkeypatch):
    interrupts.in_evaluation(monkeypatch)
    assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 130
    assert "stopped by SIGINT" in one_line(capsys)
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "stopped"
    assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 0
    assert "going on from phase 1, epoch 1, step 0, exemplars selected" in capsys.readouterr().out


def test_exit_1_with_a_traceback_for_our_own_bug(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "select", lambda *arguments: 1 / 0)
    assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["exit_code"] == 1 and "ZeroDivisionError" in status["message"]


def test_exit_2_for_a_mistake_in_the_users_own_file_whose_traceback_is_kept(tmp_path, capsys, monkeypatch):
    (tmp_path / "own.py").write_text("def fail():\n    1 / 0\nfail()\n")
    monkeypatch.setattr(setup, "build", lambda *arguments: names.find(f"{tmp_path}/own.py:make", key="method.name"))
    assert train.main([*QUICK, "--out", str(tmp_path / "run")]) == 2
    line = one_line(capsys)
    assert line.startswith(f"train.py: method.name: {tmp_path}/own.py can't be imported; line 2: ZeroDivisionError")
    assert line.endswith(f"(details: {tmp_path}/run/traceback.txt)")
    assert "in fail\n" in (tmp_path / "run/traceback.txt").read_text()


def test_a_launcher_that_says_half_of_it_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train.main(["--out", str(tmp_path / "run")]) == 2
    assert "RANK is not set" in one_line(capsys)


def test_only_one_process_is_profiled(tmp_path, capsys, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
    for rank, status in (("0", 2), ("1", 0)):  # the first process tells it
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert train.main(["--profile", "3", "--out", str(tmp_path)]) == status
    assert "--profile" in one_line(capsys)


class Together(Processes):
    """Several processes, as one of them sees it that agrees with all."""

    def check_equal(self, what, *, when):
        assert self.size == 2

    def once_per_machine(self, place, make):
        return make()


@pytest.mark.parametrize(("rank", "printed"), [(0, True), (1, False)])
def test_a_plan_is_that_of_the_processes_that_were_launched(rank, printed, capsys, monkeypatch):
    """Refused where their run would be; 40 images in groups of 8 are three groups and two."""
    monkeypatch.setattr("cil_func.parallel.launch.launched", lambda: Launch(rank, 2, rank, 2))
    monkeypatch.setattr("cil_func.runs.run.join", lambda launch, **settings: nullcontext(Together(launch)))
    flags = ["--dry-run", "--set", "optim.batch_size=40", "--set"]
    assert train.main([*flags, "optim.norm_batch=0"]) == 2
    assert "optim.norm_batch=20 gives each a group" in one_line(capsys)
    assert train.main([*flags, "optim.norm_batch=8"]) == 0
    assert ("2 processes: 24, 16 of the 40 images of a batch\n" in capsys.readouterr().out) is printed


def test_a_plan_is_refused_where_the_directory_holds_another_run(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[optim]\nepochs = 3\n")
    before = sorted(tmp_path.iterdir())
    assert train.main(["--dry-run", "--out", str(tmp_path), "--set", "optim.epochs=2"]) == 2
    assert "optim.epochs is 3 there and 2 here" in one_line(capsys) and sorted(tmp_path.iterdir()) == before


def test_print_config_can_be_fed_back(tmp_path, capsys):
    flags = ["--config", "cifar-survey", "--set", "run.seed=7"]
    assert train.main([*flags, "--print-config"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.toml").write_text(printed)
    assert train.main(["--config", str(tmp_path / "again.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_dry_run_counts_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--set", "optim.epochs=2", "--set", "data.increment=4", "--set", "optim.batch_size=32"]
    assert train.main([*flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    phases = [[int(cell) for cell in row[:7]] for row in rows if len(row) > 7]
    assert [row[:3] for row in phases] == [[0, 4, 4], [1, 4, 8], [2, 2, 10]]
    assert [row[4] for row in phases] == [0, 20, 16]  # 4 x 5 and 8 x 2 exemplars
    assert sum(row[3] - row[4] for row in phases) == 1437  # four fifths of 1,797
    assert all(row[6] == 2 * -(-row[3] // 32) for row in phases)
    parameters = sum(leaf.numel() for leaf in reference.ResNet(8, 10).parameters())
    assert f"parameters: {parameters:,} " in printed


def test_a_default_directory_tells_runs_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(QUICK) == 0
    (only,) = (tmp_path / "runs").iterdir()
    assert only.name.startswith("digits-")


def test_torchrun_starts_it_from_another_folder(tmp_path):
    """The command as people type it, by a real launcher: the import path and the preset must not need the folder."""
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [str(torchrun), "--standalone", str(ROOT / "train.py"), *QUICK]
    done = subprocess.run([*command, "--out", "here"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "average incremental accuracy" in done.stdout
    assert (tmp_path / "here/results.json").exists()


def test_a_mistake_is_answered_before_torch_is_imported():
    code = "import sys, train; status = train.main(['--set', 'optim.epoch=3']); print(status, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"]
