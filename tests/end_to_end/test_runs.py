"""Whole runs of `train.py`, in small, judged by what they leave on disk."""

import json
import math
import shutil
from contextlib import nullcontext

import numpy as np
import one_conv
import pytest
import torch
from PIL import Image

import train
from benchmarks import prior, record
from cil_func import model
from cil_func.data import sources
from cil_func.runs import checkpoints

pytestmark = pytest.mark.usefixtures("shallow")
METHODS = ["wa", "icarl", "replay", "lwf", "finetune", "joint"]


def run(directory, *overrides, config="digits"):
    flags = [flag for override in overrides for flag in ("--set", override)]
    return train.main(["--config", config, *flags, "--out", str(directory)])


def small(name="wa", *overrides):
    """Three phases of 4, 4 and 2 classes, 3 epochs, on one convolution: a minute less than the real thing."""
    return (
        "data.increment=4", "optim.epochs=3", "optim.batch_size=64", f"method.name={name}", "run.threads=1",
        "memory.size=50", f"model.backbone={one_conv.NAME}", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, drawn):
    """One run of each method: {name: (directory, results)}."""
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for name in METHODS:
        with drawn() if name == "wa" else nullcontext():
            assert run(root / name, *small(name)) == 0
        found[name] = root / name, json.loads((root / name / "results.json").read_text())
    return found


@pytest.mark.parametrize("name", METHODS)
def test_results_hold_what_the_contract_says(runs, name):
    _, results = runs[name]
    assert results["method"] == name and results["num_classes"] == 10 and results["seed"] == 0
    assert results["class_order"] == np.random.RandomState(1993).permutation(10).tolist()
    assert results["config"]["data"]["increment"] == 4
    assert [row["num_new"] for row in results["phases"]] == [4, 4, 2]
    assert [row["classes_seen"] for row in results["phases"]] == [4, 8, 10]
    top1 = [row["top1"] for row in results["phases"]]
    assert results["average_incremental_accuracy"] == pytest.approx(sum(top1) / 3)
    assert results["last_accuracy"] == top1[-1]
    matrix = results["accuracy_matrix"]
    assert [len(row) for row in matrix] == [1, 2, 3]
    forgotten = [max(row[old] for row in matrix[old:-1]) - matrix[-1][old] for old in (0, 1)]
    assert results["forgetting"] == pytest.approx(sum(forgotten) / 2)
    keys = {"old_top1", "new_top1", "top5", "new_share", "nme_top1", "gamma", "memory_size", "seconds"}
    for row in results["phases"]:
        assert keys < row.keys() and set(row["seconds"]) == {"train", "select", "evaluate"}
        assert row["phase"] or (row["old_top1"], row["gamma"], row["new_share"]) == (None, None, 1.0)


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_used_by_those_that_have_one(runs, name):
    rows = runs[name][1]["phases"]
    with_memory = name in ("wa", "icarl", "replay")
    # 50 // 4 = 12, 50 // 8 = 6, 50 // 10 = 5 a class
    assert [row["memory_size"] for row in rows] == ([48, 48, 50] if with_memory else [0, 0, 0])
    assert all((row["nme_top1"] is None) is not with_memory for row in rows)
    aligned = [row["gamma"] is not None for row in rows]
    assert aligned == ([False, True, True] if name == "wa" else [False] * 3)
    if name == "icarl":
        assert all(row["top1"] == row["nme_top1"] for row in rows)


def test_the_methods_differ_as_they_should(runs):
    """All start alike, and only what sees old classes still knows them: fine-tuning's old accuracy is near 0."""
    rows = {name: results["phases"] for name, (_, results) in runs.items()}
    by_logits = [name for name in METHODS if name != "icarl"]
    assert len({rows[name][0]["top1"] for name in by_logits}) == 1
    assert rows["finetune"][-1]["old_top1"] < 5 < rows["joint"][-1]["old_top1"]
    assert rows["finetune"][-1]["new_share"] > 0.9


def test_the_directory_holds_a_finished_run(runs):
    directory, _ = runs["wa"]
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "config.toml", "metrics.jsonl", "results.json", "status.json", "model.safetensors", "model.json", "report",
        "checkpoints", "memory", ".lock",
    }  # fmt: skip
    status = json.loads((directory / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "run_start", *["phase_start", "epoch", "epoch", "epoch", "phase_end"] * 3, "run_end",
    ]  # fmt: skip
    assert [event["images"] for event in events if event["event"] == "epoch"][3] == len_new(1) + 48
    norms = next(event["norms"] for event in reversed(events) if event["event"] == "phase_end")
    old, new = np.mean(norms["after_align"][:8]), np.mean(norms["after_align"][8:])
    assert old == pytest.approx(new, rel=1e-5)  # what aligning is
    assert norms["before_align"][:8] == norms["after_align"][:8]


def test_the_events_know_each_class_and_the_last_one_what_it_was_taken_for(runs):
    directory, results = runs["wa"]
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    ends = [event for event in events if event["event"] == "phase_end"]
    assert [len(end["class_top1"]) for end in ends] == [4, 8, 10]
    assert ["confusion" in end for end in ends] == [False, False, True]
    right = sum(count for target, named, count in ends[-1]["confusion"] if target == named)
    images = sum(count for _, _, count in ends[-1]["confusion"])
    assert 100 * right / images == pytest.approx(results["last_accuracy"])
    assert "confusion" not in results["phases"][-1]


def len_new(phase: int) -> int:
    """Training images of the classes of a phase, counted from the data set itself."""
    order = np.random.RandomState(1993).permutation(10)
    return int(np.isin(sources.load("digits").train_targets, order[4 * phase : 4 * phase + 4]).sum())


def test_the_saved_model_has_the_last_accuracy(tmp_path):
    """Read back and run plainly on the test images: what somebody who predicts with it would do."""
    assert run(tmp_path, *small("wa", "model.backbone=resnet20", "optim.epochs=1")) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    params, state, _, description, _ = checkpoints.load_model(tmp_path)
    data = sources.load("digits")
    settings = description["preprocessing"]
    pixels = torch.from_numpy(data.test_images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(settings[key]).float().view(1, 3, 1, 1) for key in ("mean", "std"))
    logits, _, _ = model.apply(params, state, (pixels - mean) / std, train=False)
    index = torch.tensor([entry["index"] for entry in description["classes"]])
    top1 = (index[logits.argmax(1)] == torch.from_numpy(data.test_targets)).double().mean() * 100
    assert top1.item() == pytest.approx(results["last_accuracy"], abs=0.3)  # one image of 360
    assert [entry["name"] for entry in description["classes"]] == [str(index) for index in results["class_order"]]


def test_the_same_configuration_twice_gives_the_same_bits(runs, tmp_path):
    directory, results = runs["wa"]
    assert run(tmp_path / "again", *small("wa")) == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    again = json.loads((tmp_path / "again/results.json").read_text())
    for mine, theirs in zip(results["phases"], again["phases"], strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
    assert run(tmp_path / "seed", *small("wa", "run.seed=1")) == 0
    assert (tmp_path / "seed/model.safetensors").read_bytes() != (directory / "model.safetensors").read_bytes()


def test_the_saved_configuration_is_the_run(runs, tmp_path):
    """config.toml fed back gives the same bits, with nothing else said."""
    directory, _ = runs["wa"]
    assert run(tmp_path / "again", config=str(directory / "config.toml")) == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_evaluation_between_epochs_and_variants(tmp_path):
    overrides = small(
        "wa", "optim.eval_every_epochs=1", "optim.norm_batch=32", "method.clip_weights=true",
        "memory.fixed_per_class=3", "run.precision=float64", "optim.first_phase.epochs=2",
        "memory.selection=closest", "augment.brightness=0.2",
    )  # fmt: skip
    assert run(tmp_path / "run", *overrides) == 0
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert [(event["phase"], event["epoch"]) for event in evaluations] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    keys = {"event", "phase", "epoch", "logits_top1", "time"}  # "top1" is a phase's, by the method's own rule
    assert all(event.keys() == keys for event in evaluations)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [row["memory_size"] for row in results["phases"]] == [12, 24, 30]
    params = checkpoints.load_model(tmp_path / "run").params
    assert params["classifier"]["weight"].dtype == torch.float64
    assert (params["classifier"]["weight"] >= 0).all()


def test_an_image_folder_is_learned_by_a_timm_backbone(tmp_path, drawn):
    """Images of several sizes, a folder named val/, RandAugment, another backbone."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("ant", "bée", "cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 60, (20 + i, 18, 3), dtype=np.uint8)
                pixels[..., label % 3] += 100 + 40 * (label // 3)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    overrides = (
        "data.name=image_folder", f"data.path={tmp_path / 'images'}", "data.image_size=16", "data.increment=2",
        'model.backbone="timm:resnet10t"', "augment.auto_augment=rand-m9-mstd0.5-inc1", "augment.flip=true",
        "memory.size=8", "optim.epochs=2", "optim.batch_size=4",
        "data.class_order=[\"dog\", \"ant\", \"cat\", \"bée\"]",
    )  # fmt: skip
    with drawn():
        assert run(tmp_path / "run", *overrides) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["class_order"] == [3, 0, 2, 1]
    assert results["class_names"] == ["dog", "ant", "cat", "bée"]
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    starts = [(e["classes"], e["class_names"]) for e in events if e["event"] == "phase_start"]
    assert starts == [([3, 0], ["dog", "ant"]), ([2, 1], ["cat", "bée"])]
    assert "\n- classes of phase 1: 2 `cat`, 1 `bée`\n" in (tmp_path / "run/report/table.md").read_text()
    assert math.isfinite(results["average_incremental_accuracy"])


def test_the_records_of_a_run_hold_its_figures(runs, tmp_path, monkeypatch, capsys):
    directory, results = runs["wa"]
    flags = ["--commit", "c", "--json", str(tmp_path / "a.json")]
    monkeypatch.setattr("sys.argv", ["record", str(directory), "x", *flags])
    assert record.main() == 0
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["figures"]["gamma_phase_2"] == results["phases"][2]["gamma"]
    assert written["conditions"]["commit"] == "c"
    monkeypatch.setattr("sys.argv", ["prior", str(directory), "x", "--json", str(tmp_path / "b.json")])
    assert prior.main() == 0
    found = json.loads((tmp_path / "b.json").read_text())["figures"]
    assert found["top1"] == pytest.approx(results["last_accuracy"], abs=0.3)  # one image of 360
    assert found["log_ratio_of_images"] == pytest.approx(math.log(len_new(2) / 2 / (50 // 8)))
    fixed = tmp_path / "fixed"
    shutil.copytree(directory, fixed)
    text = (fixed / "config.toml").read_text()
    (fixed / "config.toml").write_text(text.replace("fixed_per_class = 0", "fixed_per_class = 7"))
    monkeypatch.setattr("sys.argv", ["prior", str(fixed), "x", "--json", str(tmp_path / "c.json")])
    assert prior.main() == 0
    found = json.loads((tmp_path / "c.json").read_text())["figures"]
    assert found["log_ratio_of_images"] == pytest.approx(math.log(len_new(2) / 2 / 7))
