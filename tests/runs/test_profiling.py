"""`--profile`: a trace that a browser opens, and a count of kernels that can be checked."""

import json
import os
import resource
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import train
from cil_func import config
from cil_func.errors import ConfigError, DataError, DiskError
from cil_func.runs import profiling

pytestmark = pytest.mark.usefixtures("shallow")
TINY = ["optim.batch_size=8"]


def test_a_trace_of_steps_with_a_teacher(tmp_path):
    text = profiling.run(config.load("digits", TINY), tmp_path / "new", 3)
    trace = json.loads((tmp_path / "new" / "trace.json").read_text())
    names = [event["name"] for event in trace["traceEvents"] if event["ph"] == "X"]  # what has a duration
    # A block a stage makes 7 convolutions; torch.func shows the backward pass of each once a level
    assert names.count("aten::convolution_backward") in (3 * 7, 2 * 3 * 7, 3 * 3 * 7)
    assert "aten::convolution_backward" in text and "trace.json" in text
    count = int(text.split("kernels a step: ")[1].split()[0])
    assert 7 * 2 < count < 2000


def test_kernels_are_the_operations_that_leave_their_work_to_no_other():
    x = torch.randn(4, 4)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as trace:
        torch.mm(x, x)
        torch.empty(3)
        torch.add(x, x)
        torch.nn.functional.linear(x, x)  # a view and a product
        x.T.contiguous()  # a clone, which calls a copy
    assert profiling.kernels(trace) == 4


@pytest.mark.parametrize(("device", "level"), [("cpu", "6"), ("cuda", None)])
def test_on_a_cpu_the_profiler_says_nothing_about_itself_or_gpus(device, level, monkeypatch):
    """It reads KINETO_LOG_LEVEL as the first trace begins: 5 and more hides its errors, of a GPU that isn't there."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "0")  # so that afterwards it is what it was before
    monkeypatch.delenv("KINETO_LOG_LEVEL")

    class FoundRun(Exception):
        pass

    def begin(**_):
        raise FoundRun

    monkeypatch.setattr(profiling, "profile", begin)
    with pytest.raises(FoundRun):
        profiling._trace(SimpleNamespace(experiment=SimpleNamespace(device=torch.device(device))), 1)
    assert os.environ.get("KINETO_LOG_LEVEL") == level


def test_more_steps_than_the_phase_has(tmp_path):
    settings = ["optim.epochs=1"]
    with pytest.raises(DataError, match="--profile 5000: the phase has"):
        profiling.run(config.load("digits", settings), tmp_path, 5000)


def test_a_directory_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        profiling.run(config.load("digits", TINY), tmp_path / "file", 1)


def test_a_trace_that_a_full_disk_did_not_take_is_not_said_to_be_there(tmp_path, monkeypatch):
    """Then torch raises nothing and leaves the beginning of it under another name; here for a limit of 1000 bytes."""
    (tmp_path / "trace.json").write_text("of an earlier command")
    export, limits = profile.export_chrome_trace, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            export(self, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(profile, "export_chrome_trace", limited)
    with pytest.raises(DiskError, match=r"trace\.json: the trace can't be written, as on a full disk"):
        profiling.run(config.load("digits", TINY), tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_by_the_command_line(tmp_path, capsys):
    for wrong in ("0", "-1", "two"):
        assert train.main(["--profile", wrong]) == 2
    assert capsys.readouterr().err.count("--profile") == 3
    assert train.main(["--profile", "1", "--out", str(tmp_path), "--set", "optim.batch_size=8"]) == 0
    assert (tmp_path / "trace.json").exists() and "kernels a step" in capsys.readouterr().out
