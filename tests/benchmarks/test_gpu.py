"""The GPU benchmark with small sizes on a CPU: its figures, time budget and failures, and its graphs by fake CUDA."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import fake_cuda
import pytest
import tiny
import torch

from benchmarks import gpu
from benchmarks.gpu_helpers import training_steps, whole_runs
from cil_func import tree
from cil_func.config import load
from cil_func.data.augmentation import augment
from cil_func.training import inference, runners

# 4 classes of 8 training images in two phases, 2 epochs each: 16 images, 2 batches, then 16 and 16 exemplars
SMALL = (
    "--batch-sizes", "4,8", "--norm-batch", "4", "--models", "2", "--repeats", "1", "--calls", "1",
    "--image-size", "8", "--backbone", "resnet20", "--runs", "cifar",
    "--epochs", "2", "--classes", "4", "--train-images", "8", "--test-images", "2",
    *(
        flag
        for override in (
            "data.initial_increment=2", "data.increment=2", "optim.batch_size=8", "optim.norm_batch=4",
            "augment.crop_padding=1", "optim.learning_rate=0.01", "run.device=cpu",
        )
        for flag in ("--set", override)
    ),
)  # fmt: skip
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread, three blocks, chunks of 64 images, one step traced, nothing compiled: that takes a minute a graph."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tiny.shallow(monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(runners, "name_kernels", lambda: None)  # it would stay
    monkeypatch.setattr(gpu, "_TRACED", 1)
    monkeypatch.setitem(inference.FORWARD_PIXELS, "cpu", 64 * 8 * 8)
    monkeypatch.setitem(augment.CHUNK_PIXELS, "cpu", 64 * 8 * 8)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Calls main(*flags) with a results file. Returns (exit status, the file's content)."""

    def start(*flags):
        path = tmp_path / "gpu.json"
        status = gpu.main([*SMALL, *flags, "--json", str(path)])
        return status, json.loads(path.read_text(encoding="utf-8"))

    return start


def of_size(size):
    names = {f"microseconds_{name}_{size}" for name in ("eager", "compiled", "teacher", "augment", "draw")}
    names |= {f"seconds_first_{name}_{size}" for name in ("eager", "compiled")}
    names |= {f"kernels_{name}_{size}" for name in ("eager", "compiled")}
    names |= {f"share_{kind}_{size}" for kind in ("convolution", "fused", "other")}
    return names | {f"images_per_second_{size}", f"floor_fraction_{size}", f"speedup_compiled_{size}"}


def of_convolutions():
    parts = ("speedup_grouped", "microseconds_separate", "microseconds_grouped")
    return {f"{part}_2_stage{stage}" for part in parts for stage in range(3)}


def of_run(name, phases):
    sections = {f"seconds_{section}_{name}" for section in ("data", "train", "select", "evaluate")}
    accuracies = {f"{key}_phase_{phase}_{name}" for key in ("top1", "nme_top1") for phase in range(phases)}
    parts = ("seconds", "seconds_first_epoch", "images_per_second", "phases", "phases_done", "epochs", "epochs_done")
    return sections | accuracies | {f"{part}_{name}" for part in parts}


def test_every_figure_that_a_cpu_has(started, capsys):
    status, written = started("--batch-sizes", "8")
    figures, conditions = written["figures"], written["conditions"]
    assert status == 0 and written["name"] == "gpu"
    expected = of_size(8) | of_convolutions() | of_run("cifar", 2) | {"average_cifar", "last_cifar"}
    assert figures.keys() == expected
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert list(conditions["sections"]) == ["steps_8", "kernels_8", "convolutions", "run_cifar"]
    assert conditions["left_out"].keys() == {"captured", "branches"}
    # forward and two gradients of 7 convolutions are 21, and there is more
    assert 21 < figures["kernels_compiled_8"] < 20_000
    assert sum(figures[f"share_{kind}_8"] for kind in gpu.KINDS) == pytest.approx(1)
    per_batch = sum(figures[f"microseconds_{part}_8"] for part in ("compiled", "teacher", "augment"))
    assert figures["images_per_second_8"] == pytest.approx(8e6 / per_batch)
    assert [figures[f"{key}_cifar"] for key in ("phases_done", "phases", "epochs_done", "epochs")] == [2, 2, 4, 4]
    assert figures["average_cifar"] == (figures["top1_phase_0_cifar"] + figures["top1_phase_1_cifar"]) / 2
    settings = conditions["config_cifar"]
    assert settings["data"]["path"] == "" and settings["optim"]["epochs"] == 2 and conditions["generated_images"]
    told = capsys.readouterr().out
    for line in ("captured: left out, a CUDA graph needs a GPU", "cifar phase 1: top-1", "microseconds_eager_8  "):
        assert line in told


def test_named_images_and_no_runs(started, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        started("--data", str(tmp_path))
    assert ended.value.code == 2 and "no folder train" in capsys.readouterr().err
    status, written = started("--runs", "", "--batch-sizes", "")
    assert status == 1  # the convolutions have no batch size
    assert written["conditions"]["left_out"]["convolutions"].startswith("failed")


def test_the_graphs_are_those_of_the_whole_runs(tmp_path):
    """The larger batch has cifar.toml's method, groups and optimiser, the other one cifar-survey.toml's first phase."""
    options = gpu.parse([*SMALL[: SMALL.index("--set")]])
    for size, preset, group in ((8, "cifar", 4), (4, "cifar-survey", 0)):
        rig = training_steps.make_rig(size, options=options, folder=tmp_path)
        expected = load(preset)
        for ready, compiled in ((rig.eager, False), (rig.fast, True)):
            assert ready.config.method == expected.method and ready.config.run.compile is compiled
            own, other = ready.config.optim_of_phase(1), expected.optim_of_phase(0)
            assert (own.batch_size, own.norm_batch) == (size, group)
            assert (own.momentum, own.weight_decay) == (other.momentum, other.weight_decay)
        train_state, taught, batch, classes, rate = rig.given
        assert len(batch.labels) == len(taught.logits) == size and rate.ndim == 0
        assert (classes.old.sum(), classes.seen.sum()) == (50, 60)
        assert train_state.params["classifier"]["weight"].shape[0] == 100


# time and failures


def test_without_time_nothing_is_begun(started, capsys):
    status, written = started("--minutes", "0")
    assert status == 0 and written["figures"] == {} and written["conditions"]["sections"] == {}
    assert written["conditions"]["left_out"].keys() == {
        *("steps_4", "steps_8", "kernels_4", "kernels_8", "convolutions", "run_cifar", "captured", "branches")
    }
    assert "run_cifar: left out, no time is left" in capsys.readouterr().out


def budget_of(times):
    """A budget that answers these seconds, one after the other, and the last one for ever."""
    return SimpleNamespace(left=lambda: times.pop(0) if len(times) > 1 else times[0])


def learned(tmp_path, budget, figures=()):
    record = whole_runs.Record({}, tmp_path / "gpu.json")
    record.figures |= figures
    whole_runs.learn("cifar", gpu.parse(SMALL), tmp_path, budget, record)
    return record, json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))


def test_a_run_that_is_cut_short_has_the_figures_of_its_finished_phases(tmp_path, capsys):
    """An epoch of phase 0 has 2 batches: phase_start, 2 x (2 progress and epoch), phase_end, phase_start, progress."""
    record, written = learned(tmp_path, budget_of([100] * 11 + [0]))
    figures = written["figures"]
    assert figures == record.figures and figures.keys() == of_run("cifar", 1)
    assert [figures[f"{key}_cifar"] for key in ("phases_done", "phases", "epochs_done", "epochs")] == [1, 2, 2, 4]
    why = "cut short, the time is over; 1 of 2 phases and 2 epochs are done"
    assert written["conditions"]["left_out"] == {"run_cifar": why}
    assert f"run_cifar: {why}" in capsys.readouterr().out


def test_a_run_whose_last_phase_is_done_is_whole(tmp_path):
    """The time is over after the last phase has been saved, so nothing is missing."""
    saved = []
    budget = SimpleNamespace(left=lambda: 0.0 if saved else 100.0)

    class Noted(whole_runs.Record):
        def keep(self, figures, *, show=True):
            super().keep(figures, show=show)
            saved.extend([True] * (figures.get("phases_done_cifar") == 2))

    record = Noted({}, tmp_path / "gpu.json")
    whole_runs.learn("cifar", gpu.parse(SMALL), tmp_path, budget, record)
    assert record.figures["phases_done_cifar"] == 2 and "last_cifar" in record.figures and saved
    assert record.conditions["left_out"] == {}


def test_a_run_is_not_begun_without_time_for_its_first_phase(tmp_path, capsys):
    """2 epochs of 16 images at 4 a second, and 3 seconds of compilation: 11."""
    measured = {"images_per_second_8": 4.0, "seconds_first_compiled_8": 3.0}
    record, written = learned(tmp_path, budget_of([10.9]), measured)
    told = "run_cifar: left out, its first phase would take about 11 s, and 11 s are left"
    assert told in capsys.readouterr().out and "run_cifar" in written["conditions"]["left_out"]
    assert (record.figures["phases_done_cifar"], record.figures["epochs_done_cifar"]) == (0, 0)
    record, _ = learned(tmp_path, budget_of([11.1]), measured)
    assert record.figures["phases_done_cifar"] == 2


def test_a_budget_counts_down_from_its_start():
    now = [100.0]
    budget = whole_runs.Budget(30.0, clock=lambda: now[0])
    now[0] = 112.0
    assert budget.left() == 18.0


def test_a_section_that_fails_costs_no_other(started, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "steps", lambda *_: 1 / 0)
    monkeypatch.setattr(gpu, "kernels", lambda *_: None)
    status, written = started("--batch-sizes", "4")
    assert status == 1
    assert written["figures"].keys() == of_convolutions() | of_run("cifar", 2) | {"average_cifar", "last_cifar"}
    assert written["conditions"]["left_out"]["steps_4"] == "failed, ZeroDivisionError"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_run_that_is_killed_has_lost_nothing(tmp_path, monkeypatch):
    """The file is written after each section and, within a run, after each phase."""
    path, seen = tmp_path / "gpu.json", []
    original = whole_runs.experiment.run

    def killed(ready, *, emit, save):
        def save_first(results):
            save(results)
            seen.append(json.loads(path.read_text(encoding="utf-8"))["figures"])
            raise KeyboardInterrupt

        original(ready, emit=emit, save=save_first)

    monkeypatch.setattr(whole_runs.experiment, "run", killed)
    monkeypatch.setattr(gpu, "kernels", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*SMALL, "--batch-sizes", "4", "--json", str(path)])
    steps = {name for name in of_size(4) if not name.startswith(("kernels", "share"))}
    assert seen[0].keys() == steps | of_convolutions() | of_run("cifar", 1)
    sections = json.loads(path.read_text(encoding="utf-8"))["conditions"]["sections"]
    assert list(sections) == ["steps_4", "kernels_4", "convolutions"]


# kinds of kernels


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x32x32", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized_bf16>", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("triton_poi_fused_convolution_backward_threshold_backward_7", "fused"),
        ("graph_0_cpp_fused_mul_relu_sum_0", "fused"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "other"),
        ("Memcpy DtoD (Device -> Device)", "other"),
    ],
)
def test_kinds_of_kernels(name, expected):
    assert gpu.kind(name) == expected


def event(name, microseconds, *, on_gpu=True, annotation=False):
    device = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    elapsed = SimpleNamespace(elapsed_us=lambda: microseconds)
    return SimpleNamespace(
        name=name, device_type=device, time_range=elapsed, is_user_annotation=annotation, self_cpu_time_total=1000.0
    )


def test_shares_are_of_the_kernels_time_on_the_gpu():
    """30 + 20 in convolutions, 40 in what inductor made, 10 in the rest; the host and ranges are no kernels."""
    events = [
        event("cudnn_fprop", 30.0), event("wgrad", 20.0), event("triton_red_fused_sum_1", 40.0), event("Memset", 10.0),
        event("aten::convolution", 500.0, on_gpu=False), event("step", 100.0, annotation=True),
    ]  # fmt: skip
    found = gpu.shares(SimpleNamespace(events=lambda: events))
    assert found == pytest.approx({"convolution": 0.5, "fused": 0.4, "other": 0.1})


# several models at once


def test_grouped_convolutions_compute_the_separate_ones_and_are_what_vmap_makes():
    torch.manual_seed(0)
    separate, grouped = training_steps.convolution_pair(3, (2, 4, 6, 6), torch.float64, torch.device("cpu"))
    (together,), alone = grouped(), separate()
    assert len(alone) == 3
    for index, axis in enumerate((1, 1, 0)):  # outputs and images side by side in channels, weights in rows
        torch.testing.assert_close(together[index], torch.cat([parts[index] for parts in alone], axis))
    ((images, weights, _),), _ = grouped.args
    each = torch.func.vmap(lambda x, weight: torch.nn.functional.conv2d(x, weight, padding=1))
    expected = each(torch.stack(images.chunk(3, 1)), torch.stack(weights.chunk(3)))
    torch.testing.assert_close(together[0], torch.cat(list(expected), 1))


class Streams:
    """Notes which of torch.cuda's streams waits for which, and on which stream each function is called."""

    def __init__(self, monkeypatch):
        self.log, self.current, made = [], "default", []
        outer = self

        class Stream:
            def __init__(self, name=""):
                self.name = name or f"side{len(made)}"
                made.extend([] if name else [self])

            def wait_stream(self, other):
                outer.log.append(f"{self.name} waits for {other.name}")

        @contextmanager
        def on(stream):
            before, self.current = self.current, getattr(stream, "name", stream)
            yield
            self.current = before

        @contextmanager
        def capture(graph):
            self.log.append("capture")
            with on("capturing"), fake_capture(graph):
                yield
            self.log.append("captured")

        fake_cuda.install(monkeypatch)
        fake_capture = torch.cuda.graph
        for name, fake in {
            "Stream": Stream, "stream": on, "graph": capture, "current_stream": lambda: Stream(self.current)
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, fake)


def test_branches_fork_from_the_capture_and_join_it(monkeypatch):
    streams = Streams(monkeypatch)
    counts = [torch.zeros(()), torch.zeros(())]

    def function(index):
        streams.log.append(f"{index} on {streams.current}")
        counts[index].add_(index + 1)

    graph = training_steps.Branches([lambda: function(0), lambda: function(1)])
    assert streams.log == [
        "side0 waits for default", *["0 on side0"] * 3, "side1 waits for default", *["1 on side1"] * 3,
        "default waits for side0", "default waits for side1",
        "capture",
        "side0 waits for capturing", "0 on side0", "side1 waits for capturing", "1 on side1",
        "capturing waits for side0", "capturing waits for side1",
        "captured",
    ]  # fmt: skip
    assert [count.item() for count in counts] == [3, 6]  # the warm-up's, for a capture does nothing
    graph()
    graph()
    assert [count.item() for count in counts] == [5, 10]


def test_a_branch_is_the_step_of_its_own_model(tmp_path, monkeypatch):
    """Two models as branches of the fake graph change as each does alone, and nothing outside changes."""
    fake_cuda.install(monkeypatch)
    rig = training_steps.make_rig(4, options=gpu.parse(SMALL), folder=tmp_path)
    function, given = rig.eager.experiment.recipe(1, "").step, rig.given
    before = tree.map(torch.clone, given)
    other = (tree.map(lambda leaf: leaf * 2 if leaf.is_floating_point() else leaf, given[0]), *given[1:])
    moved = []

    def noted(*arguments):
        moved.append(arguments[0])
        return function(*arguments)

    graph = training_steps.Branches([training_steps.in_place(noted, own) for own in (given, other)])
    graph()
    for start, state in ((given, moved[0]), (other, moved[runners.WARM_UP])):
        steps = runners.EagerSteps(function, start[0], start[3])
        for _ in range(runners.WARM_UP + 1):
            steps(start[1], start[2], start[4])
        expected = steps.snapshot()[0]
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(expected), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(given), tree.leaves(before), strict=True))


def test_the_figures_of_branches(tmp_path, monkeypatch):
    """The section itself, with a step that only counts, and fake graphs."""
    fake_cuda.install(monkeypatch)
    options = gpu.parse([*SMALL, "--models", "2,3"])
    record = whole_runs.Record({"device": "cpu"}, tmp_path / "gpu.json")
    recipe = SimpleNamespace(step=lambda train_state, rate: (tree.map(torch.add, train_state, {"count": rate}), None))
    made = SimpleNamespace(recipe=lambda phase, name: recipe, device=torch.device("cpu"))
    ready = SimpleNamespace(experiment=made)
    rig = training_steps.Rig(4, ready, ready, ({"count": torch.zeros(())}, torch.ones(())))
    training_steps.branches(rig, options, record)
    parts = ("speedup_branches", "microseconds_successive", "microseconds_parallel")
    assert record.figures.keys() == {f"{part}_{models}_4" for part in parts for models in (2, 3)}
    assert all(value > 0 for value in record.figures.values())


def test_the_captured_step_is_measured_where_there_are_graphs(tmp_path, monkeypatch):
    fake_cuda.install(monkeypatch)
    options = gpu.parse(SMALL)
    rig = training_steps.make_rig(4, options=options, folder=tmp_path)
    rig = rig._replace(fast=replace(rig.fast, experiment=replace(rig.fast.experiment, captured=True)))
    assert list(gpu.modes(rig)) == ["eager", "compiled", "captured"]
    record = whole_runs.Record({}, tmp_path / "gpu.json")
    gpu.steps(rig, options, record)
    captured = {"microseconds_captured_4", "seconds_first_captured_4", "speedup_captured_4"}
    assert captured < record.figures.keys()
    total = sum(record.figures[f"microseconds_{part}_4"] for part in ("captured", "teacher", "augment"))
    assert record.figures["images_per_second_4"] == pytest.approx(4e6 / total)


# on a GPU


@cuda
def test_on_cuda_parallel_branches_are_the_steps_alone():
    counts = [torch.zeros((), device="cuda", dtype=torch.float64) for _ in range(3)]
    weights = [torch.eye(64, device="cuda", dtype=torch.float64) * (index + 1) for index in range(3)]
    graph = training_steps.Branches([
        lambda count=count, weight=weight: count.add_((weight @ weight).trace())
        for count, weight in zip(counts, weights, strict=True)
    ])  # fmt: skip
    for _ in range(4):
        graph()
    # the trace of (i I)^2 is 64 i^2, added by the warm-up's calls and by 4 replays
    assert [count.item() for count in counts] == [(runners.WARM_UP + 4) * 64 * i * i for i in (1, 2, 3)]
