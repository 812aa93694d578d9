"""New classes for a finished run: the same as one run of all phases, whatever is deleted, moved or stopped."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import interrupts
import numpy as np
import one_conv
import pytest
import tiny
import torch
from PIL import Image

import train
from cil_func import config, methods, tree
from cil_func.__main__ import main
from cil_func.config import effects
from cil_func.config import names as config_names
from cil_func.errors import DataError
from cil_func.memory import Budget
from cil_func.report import tables
from cil_func.runs import checkpoints, extension_config, memory_files, parent, planning, saved_model, setup, trial_steps

TINY = [
    "run.compile=false", "run.threads=1", "run.precision=float64", "run.device=cpu", "data.image_size=8",
    "optim.epochs=1", "optim.batch_size=8", "memory.size=12", "memory.fixed_per_class=0", "data.increment=2",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("shallow")
METHOD = Path(__file__).parents[1] / "own" / "adjusted_replay.py"


def folder_of(root, names):
    """A folder with some of the ten classes of `tiny.images`."""
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for name in names:
            os.symlink(tiny.images() / split / name, root / split / name)
    return root


@pytest.fixture(scope="module")
def names():
    return sorted(os.listdir(tiny.images() / "train"))[:8]


@pytest.fixture(scope="module")
def folders(names, tmp_path_factory):
    """The eight classes that are used; the first four of them, then two, then two."""
    root = tmp_path_factory.mktemp("folders")
    cuts = {"all": names, "old": names[:4], "new": names[4:6], "newer": names[6:]}
    return {key: folder_of(root / key, some) for key, some in cuts.items()}


def run(images, directory, *more):
    flags = [flag for word in (f"data.path={images}", *TINY, *more) for flag in ("--set", word)]
    return train.main(["--config", "folder", *flags, "--out", str(directory)])


def extend(old, images, directory, *more):
    flags = [flag for word in (f"data.path={images}", "run.device=cpu", *more) for flag in ("--set", word)]
    return train.main(["--extend", str(old), *flags, "--out", str(directory)])


def results_of(directory):
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(scope="module")
def base(folders, tmp_path_factory):
    """A finished run of WA on four classes, and it extended by two."""
    root = tmp_path_factory.mktemp("base")
    assert run(folders["old"], root / "old", "data.class_order=sorted") == 0
    assert extend(root / "old", folders["new"], root / "new") == 0
    return root


@pytest.mark.parametrize("method", ["wa", "lwf", "ewc", "bic", "eeil", "si", "derpp", "coil"])
def test_extending_twice_is_one_run_of_all_phases(method, folders, names, tmp_path):
    chosen = [f"method.name={method}", f"model.backbone={one_conv.NAME}"]
    chosen += [f"optim.{name}.epochs=1" for name in effects.STAGES.get(method, ())]
    order = [names[index] for index in (2, 0, 3, 1)]  # not that of the class indices
    assert run(folders["all"], tmp_path / "whole", *chosen, f"data.class_order={order + names[4:]}") == 0
    assert run(folders["old"], tmp_path / "0", *chosen, f"data.class_order={order}") == 0
    assert extend(tmp_path / "0", folders["new"], tmp_path / "1") == 0
    assert extend(tmp_path / "1", folders["newer"], tmp_path / "2") == 0
    one, other = (checkpoints.load_model(tmp_path / name) for name in ("whole", "2"))
    torch.testing.assert_close((other.params, other.state), (one.params, one.state), rtol=1e-9, atol=1e-12)
    rows, found = results_of(tmp_path / "whole"), results_of(tmp_path / "2")
    assert found["accuracy_matrix"] == rows["accuracy_matrix"] and len(found["phases"]) == 4
    assert found["old_classes_tested_on"] == "test images"
    kept, again = (memory_files.load(tmp_path / name) for name in ("whole", "2"))
    assert (kept is None) == (again is None) == (method in ("lwf", "ewc", "si"))
    if kept:
        assert np.array_equal(kept.images, again.images) and kept.class_names == again.class_names


def test_images_have_the_labels_of_their_classes(folders, names, tmp_path):
    """In an order of arrival that isn't that of the class indices."""
    order = [names[index] for index in (2, 0, 3, 1)]
    assert run(folders["old"], tmp_path / "old", f"data.class_order={order}") == 0
    made = setup.build(extension_config.of_run(tmp_path / "old", [f"data.path={folders['new']}"])).experiment
    for label, name in enumerate(order + names[4:6]):
        files = sorted((tiny.images() / "test" / name).iterdir())
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        assert np.array_equal(made.test_images.pixels[made.scenario.test_labels == label].numpy(), pixels)
        assert made.class_names[made.scenario.class_order[label]] == name


@pytest.mark.parametrize(
    ("method", "other"), [("der", "memo"), ("memo", "foster"), ("foster", "der"), ("tagfex", "der")]
)
def test_a_network_that_grows_is_extended_too(method, other, folders, tmp_path, capsys):
    """Not equal to one run: the auxiliary head is drawn for all classes of a run at once."""
    assert run(folders["old"], tmp_path / "old", f"method.name={method}", "data.class_order=sorted") == 0
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new") == 0
    before, after = (checkpoints.load_model(tmp_path / name) for name in ("old", "new"))
    name, (own,) = next(iter(before.params["backbone"])), before.params["backbone"].values()
    found, kept = after.params.get("frozen", {}), before.params["backbone"]
    if method == "memo":
        found, kept = after.params["backbone"][name]["earlier"], own["stage2"]
    assert list(found) == ([] if method == "foster" else ["0", "1"])
    if found:
        kept = {name: {key: leaf for key, leaf in own.items() if key != "beside"}} if method == "tagfex" else kept
        torch.testing.assert_close(found["1"], kept, rtol=0, atol=0)
    assert extend(tmp_path / "old", folders["new"], tmp_path / "no", f"method.name={other}") == 2
    assert f"{other} can't go on with the model of" in capsys.readouterr().err
    tests = sorted(tiny.images().glob("test/*/*"))[:12]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in tests])
    scores, found = saved_model.scores(after, torch.from_numpy(images)), results_of(tmp_path / "new")
    right = scores.argmax(1) == torch.arange(6).repeat_interleave(2)
    assert 100 * right.double().mean() == pytest.approx(found["last_accuracy"]) and name in after.params["backbone"]


def test_a_single_class_can_be_added(base, names, tmp_path):
    """By a folder that no run could begin with."""
    one = folder_of(tmp_path / "one", names[4:5])
    assert extend(base / "old", one, tmp_path / "new") == 0
    found = results_of(tmp_path / "new")
    assert found["class_names"] == names[:5] and [row["num_new"] for row in found["phases"]] == [2, 2, 1]
    assert extend(base / "old", one, tmp_path / "new") == 0  # finished: its images are looked at again


@pytest.mark.parametrize("older", [False, True])
def test_an_extended_run_is_extended_by_another_method_and_tested_on_all_test_images(older, base, folders, tmp_path):
    """Also after images of the first run's memory were deleted, and a run of an older version that extends none."""
    old, new = (shutil.copytree(base / name, tmp_path / name) for name in ("old", "new"))
    (new / "config.toml").write_text((new / "config.toml").read_text().replace(str(base / "old"), str(old)))
    if older:
        results = results_of(old)
        del results["class_tests"]  # there is a fingerprint of all of them
        (old / "results.json").write_text(json.dumps(results))
        new = old
    else:
        shutil.rmtree(next((old / "memory").glob("000-*")))
    assert extend(new, folders["newer"], tmp_path / "newer", "method.name=lwf") == 0
    found = results_of(tmp_path / "newer")
    assert found["old_classes_tested_on"] == "test images" and all(found["class_tests"])


def test_memory_holds_the_exemplars_by_class_and_rank(base, names, folders):
    told = json.loads((base / "old" / "memory" / "memory.json").read_text())
    assert [each["name"] for each in told["classes"]] == names[:4] and told["per_class"] == [3] * 4  # 12 // 4
    assert told["images"] == 12 and told["bytes"] == 12 * 8 * 8 * 3 == results_of(base / "old")["memory"]["bytes"]
    stored = memory_files.load(base / "old")
    for image, source in zip(stored.images, stored.sources, strict=True):  # of 8 x 8 pixels, so nothing was resized
        assert np.array_equal(image, np.asarray(Image.open(folders["old"] / source).convert("RGB")))


def test_the_new_run_is_whole_and_the_old_one_untouched(base, names, folders, tmp_path):
    before = {path: path.read_bytes() for path in sorted((base / "old").rglob("*")) if path.is_file()}
    assert extend(base / "old", folders["new"], tmp_path / "again") == 0
    assert {path: path.read_bytes() for path in sorted((base / "old").rglob("*")) if path.is_file()} == before
    model = json.loads((base / "new" / "model.json").read_text())
    assert [each["name"] for each in model["classes"]] == names[:6] and model["phases"] == [2, 2, 2]
    lineage = model["lineage"]
    assert lineage["parent"]["run"] == str(base / "old") and not lineage["deleted"]
    assert [each["run"] for each in lineage["phases"]] == [str(base / "old")] * 2 + [""]
    assert [each["exemplars"] for each in lineage["phases"]] == [4] * 3  # 12 // 6 for each of two classes
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (base / "new/model.safetensors").read_bytes()


def test_it_is_trained_on_the_device_of_this_machine_and_not_on_that_of_the_old_run(base, folders, tmp_path):
    """Months later it may be another machine: the old run's GPU is not asked for."""
    old, new = shutil.copytree(base / "old", tmp_path / "old"), json.dumps(str(folders["new"]))
    text = (old / "config.toml").read_text()
    (old / "config.toml").write_text(re.sub('^device = ".*"$', 'device = "cuda"', text, flags=re.MULTILINE))
    assert extension_config.of_run(old, [f"data.path={new}"]).run.device == "auto"
    assert extension_config.of_run(old, [f"data.path={new}", "run.device=cpu"]).run.device == "cpu"


def test_without_the_old_data_some_exemplars_are_kept_for_tests(base, folders, tmp_path):
    shutil.copytree(base / "old", tmp_path / "copy")
    text = (tmp_path / "copy" / "config.toml").read_text()
    (tmp_path / "copy" / "config.toml").write_text(text.replace(str(folders["old"]), str(tmp_path / "gone")))
    assert extend(tmp_path / "copy", folders["new"], tmp_path / "new", "memory.fixed_per_class=3") == 0
    found = results_of(tmp_path / "new")
    assert found["old_classes_tested_on"] == "held-out exemplars"
    events = map(json.loads, (tmp_path / "new" / "metrics.jsonl").read_text().splitlines())
    assert [event["train_images"] for event in events if event["event"] == "phase_start"] == [2 * 18 + 4 * (3 - 1)]
    assert any("4 of their exemplars" in line for line in found["data_warnings"])  # one of three of each class
    assert found["held_out"] == [0, 1, 2, 3] and "too high" in tables.phase_table(found)
    assert found["memory"]["per_class"] == [3] * 6  # those kept for tests are still exemplars


def test_a_deleted_exemplar_is_missed_and_a_changed_one_refused(base, folders, tmp_path, capsys):
    shutil.copytree(base / "old", tmp_path / "copy")
    images = sorted((tmp_path / "copy" / "memory").rglob("*.png"))
    images[0].unlink()
    assert extend(tmp_path / "copy", folders["new"], tmp_path / "new") == 0
    lineage = json.loads((tmp_path / "new" / "model.json").read_text())["lineage"]
    assert lineage["deleted"] == [images[0].relative_to(tmp_path / "copy" / "memory").as_posix()]
    assert results_of(tmp_path / "new")["memory"]["per_class"] == [2] * 6
    Image.new("RGB", (8, 8)).save(images[1])
    capsys.readouterr()
    assert extend(tmp_path / "copy", folders["new"], tmp_path / "other") == 5
    assert "was changed; delete it, and it is left out" in capsys.readouterr().err


def test_interrupted_it_ends_with_the_same_bits(base, folders, tmp_path, monkeypatch):
    interrupts.in_evaluation(monkeypatch, call=1)
    assert extend(base / "old", folders["new"], tmp_path / "new") == 130
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        assert extend(base / "old", folders["new"], tmp_path / "new") == 0
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (base / "new/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["data.image_size=16"], 2, "data.image_size: 16, and"),
        (["model.backbone=resnet32"], 2, "model.backbone: stays as it is in"),
        (["method.name=joint"], 2, "joint trains on all images of all classes; train anew"),
        (["method.name=podnet"], 2, "podnet can't go on with the model of"),
        (["data.increment=3"], 3, "data.increment = 3; the data has 2 classes, give 1 to 2"),
        (["memory.size=5"], 3, "memory.size: 5 leaves no exemplar a class once 6 classes are seen"),
    ],
)
def test_what_can_not_be_extended_is_one_line(more, status, words, base, folders, tmp_path, capsys):
    assert extend(base / "old", folders["new"], tmp_path / "x", *more) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]


def test_new_images_of_another_size_are_refused_with_a_way_out(folders, names, tmp_path, capsys):
    """Of a run that takes images at their own size."""
    assert run(folders["old"], tmp_path / "old", "data.image_size=0") == 0
    for split in ("train", "test"):
        for name in names[4:6]:
            (tmp_path / "large" / split / name).mkdir(parents=True)
            for file in (folders["new"] / split / name).iterdir():
                Image.open(file).resize((12, 12)).save(tmp_path / "large" / split / name / file.name)
    capsys.readouterr()
    assert extend(tmp_path / "old", tmp_path / "large", tmp_path / "new") == 3
    assert "the new images are 12x12" in (said := capsys.readouterr().err) and "set data.image_size = 8" in said
    assert extend(tmp_path / "old", tmp_path / "large", tmp_path / "new2", "data.image_size=8") == 0


@pytest.mark.parametrize(("size", "kept"), [(0, 0), (11, 2), (100, 3)])
def test_a_smaller_memory_holds_from_the_first_new_phase_on(size, kept, base, folders, tmp_path):
    """The exemplars of highest rank stay: the old run had 3 of each class."""
    assert extend(base / "old", folders["new"], tmp_path / "new", f"memory.size={size}") == 0
    events = map(json.loads, (tmp_path / "new" / "metrics.jsonl").read_text().splitlines())
    started = [event for event in events if event["event"] in ("run_start", "phase_start")]
    assert started[1]["train_images"] == 2 * 18 + 4 * kept
    made = setup.build(config.load(str(tmp_path / "new" / "config.toml")))
    begun = parent.progress(made.extended, made.experiment, {})
    whole = parent.progress(made.extended, replace(made.experiment, budget=Budget(12)), {})
    assert all(torch.equal(rows, whole.exemplars[label][:kept]) for label, rows in begun.exemplars.items())


def test_phases_on_validation_images_and_on_test_images_are_not_mixed_silently(folders, tmp_path):
    told = [f"{tmp_path / 'old'} has measured on validation images (data.tests_on); with later phases on test images, "
            "averages mix both"]  # fmt: skip
    assert run(folders["old"], tmp_path / "old", "data.validation=0.25", "data.tests_on=validation") == 0
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new") == 0
    assert extend(tmp_path / "new", folders["newer"], tmp_path / "newer") == 0
    for name in ("new", "newer"):
        assert [line for line in results_of(tmp_path / name)["data_warnings"] if "validation" in line] == told
    assert told[0] in (tmp_path / "new" / "metrics.jsonl").read_text()


def test_a_run_directory_with_an_emoji_is_extended(base, folders, tmp_path):
    old = shutil.copytree(base / "old", tmp_path / 'P\U0001f600 "quoted" \x7f')
    assert extend(old, folders["new"], tmp_path / "new") == 0
    assert config.load(str(tmp_path / "new" / "config.toml")).run.extends == str(old)


def test_options_of_another_data_set_are_not_those_of_the_new_classes(base, folders, tmp_path):
    """A run on a user's own data set; the function needs not be there any more if its classes come from a folder."""
    old = shutil.copytree(base / "old", tmp_path / "old")
    text = (old / "config.toml").read_text().replace('name = "image_folder"', 'name = "own.py:data"')
    (old / "config.toml").write_text(text.replace("[data.options]\n", "[data.options]\nstrength = 2\n"))
    found = {
        name: extension_config.of_run(old, ["data.path=x", *more]).data
        for name, more in {
            "folder": [], "same": ["data.name=own.py:data"], "quoted": ['data.name="own.py:data"'],
            "other": ["data.name=own.py:more"], "new": ["data.name=own.py:more", "data.options.a=1"],
        }.items()
    }  # fmt: skip
    options = {name: each.options for name, each in found.items()}
    assert found["folder"].name == "image_folder" and options == {
        "folder": {}, "same": {"strength": 2}, "quoted": {"strength": 2}, "other": {}, "new": {"a": 1},
    }  # fmt: skip


def test_the_old_run_may_be_moved_before_the_new_one_is_finished(base, folders, tmp_path, monkeypatch, capsys):
    """And after that. Another run is not taken for it, though it has the same classes and images."""
    old, new = shutil.copytree(base / "old", tmp_path / "old"), tmp_path / "new"
    interrupts.in_evaluation(monkeypatch, call=1)
    assert extend(old, folders["new"], new) == 130
    monkeypatch.undo()
    moved, other = old.rename(tmp_path / "moved"), shutil.copytree(base / "old", tmp_path / "other")
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described | {"sha256": "another"}))
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        for state in ("stopped", "finished"):
            assert json.loads((new / "status.json").read_text())["state"] == state
            assert extend(other, folders["new"], new) == 2
            assert "run.extends is" in capsys.readouterr().err
            assert extend(moved, folders["new"], new) == 0
    assert (new / "model.safetensors").read_bytes() == (base / "new/model.safetensors").read_bytes()
    assert config.load(str(new / "config.toml")).run.extends == str(moved)


def test_a_step_of_the_new_classes_is_profiled(base, folders, tmp_path, monkeypatch):
    """Phase 1 is the old run's: of its classes there are only exemplars."""
    phases = []
    monkeypatch.setattr(trial_steps, "train", lambda made, phase, **_: phases.append(phase.index))
    flags = ["--extend", str(base / "old"), "--set", f"data.path={folders['new']}", "--out", str(tmp_path)]
    assert train.main([*flags, "--profile", "1"]) == 3 and phases == [2]


def test_a_folder_of_exemplars_that_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".memory.123.tmp" / "000-cat").mkdir(parents=True)
    (tmp_path / "memory").mkdir()
    checkpoints.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["memory"]


def test_mistakes_about_the_run_and_the_folder(base, folders, names, tmp_path, capsys):
    def says(status, *words):
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and all(word in said[0] for word in words), said
        return status

    assert extend(base / "old", folders["old"], tmp_path / "a") == says(3, f"class {names[0]!r} is known to")
    assert extend(tmp_path / "none", folders["new"], tmp_path / "b") == says(2, "no such directory")
    (tmp_path / "empty").mkdir()
    assert extend(tmp_path / "empty", folders["new"], tmp_path / "c") == says(2, "holds no finished run")
    assert train.main(["--extend", str(base / "old")]) == says(2, "name their folder by --set data.path=FOLDER")
    assert train.main(["--extend", str(base / "old"), "--config", "digits"]) == says(2, "--config with --extend")
    shutil.copytree(base / "old", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "memory")
    assert extend(tmp_path / "copy", folders["new"], tmp_path / "d") == says(2, "keeps none (memory.keep)")
    data = bytearray((tmp_path / "copy" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(data)
    assert extend(tmp_path / "copy", folders["new"], tmp_path / "e") == says(5, "model.safetensors is damaged")


@pytest.mark.parametrize(("before", "method"), [("wa", "ncm"), ("wa", "fetril"), ("ncm", "fetril")])
def test_rows_computed_from_features_do_not_join_those_of_another_method(before, method, folders, tmp_path, capsys):
    kept = "memory.size=12" if before == "wa" else "memory.size=0"
    assert run(folders["old"], tmp_path / "old", f"method.name={before}", kept) == 0
    capsys.readouterr()
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new", f"method.name={method}") == 2
    line = f"{method} can't go on with the model of {tmp_path / 'old'}, which {before} has trained; take {before}\n"
    assert capsys.readouterr().err.endswith(line)
    assert extend(tmp_path / "old", folders["new"], tmp_path / "same", f"method.name={before}") == 0


@pytest.mark.parametrize(("before", "method"), [("derpp", "ewc"), ("ewc", "mas"), ("ewc", "rwalk"), ("wa", "il2m")])
def test_what_another_method_remembers_is_not_taken_over(before, method, folders, tmp_path, monkeypatch):
    """Fisher information is no importance of MAS, though both are a number a weight."""
    kept = "memory.size=12" if before in ("derpp", "wa") else "memory.size=0"
    assert run(folders["old"], tmp_path / "old", f"method.name={before}", kept) == 0
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new", f"method.name={method}") == 0
    found = checkpoints.load_model(tmp_path / "new").extra
    assert "logits" not in found and found.keys() == saved_extra(method).keys()
    assert all(torch.isfinite(leaf).all() for leaf in tree.leaves(found))
    begun, took = [], parent.progress
    monkeypatch.setattr(parent, "progress", lambda *words: begun.append(took(*words)) or begun[0])
    assert extend(tmp_path / "old", folders["new"], tmp_path / "again", f"method.name={method}") == 0
    assert all((leaf == 0).all() for leaf in tree.leaves(begun[0].extra["importance"] if method == "mas" else []))


def saved_extra(method):
    """What a method remembers before phase 0 of a network with a linear classifier."""
    made = methods.make(method, methods.Options())
    return made.extra.start({"backbone": {}, "classifier": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}})


def test_phases_that_are_learned_already_are_not_asked_for_two_classes(folders, tmp_path):
    """lwf can't learn a single class; the run that it extends had one in its second phase."""
    assert run(folders["old"], tmp_path / "old", "data.increment=[3, 1]", "data.initial_increment=0") == 0
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new", "method.name=lwf", "memory.size=0") == 0


@pytest.fixture
def own(names, tmp_path):
    """The run of `base` and its extension, each on a folder of its own that may be changed, in {"old", "new"}."""
    images = {"old": folder_of(tmp_path / "of-old", names[:4]), "new": folder_of(tmp_path / "of-new", names[4:6])}
    assert run(images["old"], tmp_path / "old", "data.class_order=sorted") == 0
    assert extend(tmp_path / "old", images["new"], tmp_path / "new") == 0
    return tmp_path, images


def test_each_old_class_is_tested_on_its_own_images_wherever_they_are(own, names, folders):
    """Other classes have come beside them, their folder has another name, or train/ is gone. Others may be gone."""
    root, images = own
    (images["old"] / "test" / names[0]).rename(images["old"] / "test" / "another name")
    (images["old"] / "train" / names[0]).rename(images["old"] / "train" / "another name")
    for split in ("train", "test"):
        os.symlink(tiny.images() / split / names[7], images["old"] / split / names[7])
        os.unlink(images["old"] / split / names[1])
    shutil.rmtree(images["new"] / "train")
    made = setup.build(extension_config.of_run(root / "new", [f"data.path={folders['newer']}", "run.device=cpu"]))
    assert made.tested_on == "test images, and 1 of 6 classes on held-out exemplars" and list(made.held_out) == [1]
    for label in (0, 2, 3, 4, 5):
        files = sorted((tiny.images() / "test" / names[label]).iterdir())
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        assert np.array_equal(made.experiment.test_images.pixels[made.experiment.scenario.test_labels == label], pixels)


@pytest.mark.parametrize("storage", ["packed", "streaming"])
def test_images_that_are_not_in_memory_are_found_too(storage, names, folders, tmp_path):
    """Without those that train; also if the new run keeps its own in memory."""
    images = folder_of(tmp_path / "of-old", names[:4])
    assert run(images, tmp_path / "old", f"data.storage={storage}") == 0
    shutil.rmtree(images / "train")
    for new in (storage, "resident"):
        settings = (f"data.storage={new}", "memory.fixed_per_class=3")
        assert extend(tmp_path / "old", folders["new"], tmp_path / new, *settings) == 0
        assert results_of(tmp_path / new)["old_classes_tested_on"] == "test images"
    matrices = [results_of(tmp_path / new)["accuracy_matrix"] for new in (storage, "resident")]
    assert matrices[0] == matrices[1]


@pytest.mark.parametrize("gone", ["the images", "the run"])
def test_no_exemplar_that_is_tested_on_is_trained_on_in_a_line_of_extensions(gone, own, names, folders):
    """An extension whose old classes were tested on exemplars keeps these among its own exemplars."""
    root, images = own
    shutil.rmtree(images["old"])
    assert extend(root / "old", folders["new"], root / "first", "memory.fixed_per_class=3") == 0
    assert results_of(root / "first")["held_out"] == [0, 1, 2, 3]
    if gone == "the run":
        shutil.rmtree(root / "old")
    made = setup.build(extension_config.of_run(root / "first", [f"data.path={folders['newer']}", "run.device=cpu"]))
    assert list(made.held_out) == [0, 1, 2, 3] and "4 of 6 classes" in made.tested_on
    begun, experiment = parent.progress(made.extended, made.experiment, dict(made.held_out)), made.experiment
    for label in range(6):
        tested = experiment.test_images.pixels[experiment.scenario.test_labels == label]
        trained = experiment.train_images.gather(begun.exemplars[label])
        assert len(tested) and len(trained) and not (tested[:, None] == trained[None]).flatten(2).all(2).any()
    assert any(line.endswith("averages mix both") and "4 of their exemplars" in line for line in made.data_warnings)


def test_a_run_that_goes_on_keeps_what_it_has_held_out(own, names, folders, monkeypatch, capsys):
    """Though the old images are back meanwhile. If those that it is tested on are gone, it says which."""
    root, images = own
    images["old"].rename(root / "away")
    assert extend(root / "old", folders["new"], root / "whole") == 0
    interrupts.in_evaluation(monkeypatch, call=1)
    assert extend(root / "old", folders["new"], root / "begun") == 130
    monkeypatch.undo()
    (root / "away").rename(images["old"])
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        assert extend(root / "old", folders["new"], root / "begun") == 0
        monkeypatch.setattr("cil_func.runs.same_images._stamp", lambda config: "touched")
        capsys.readouterr()
        assert extend(root / "old", folders["new"], root / "begun") == 0  # finished: the images are looked at again
        assert "warning" not in capsys.readouterr().err
        monkeypatch.undo()
    assert (root / "begun/model.safetensors").read_bytes() == (root / "whole/model.safetensors").read_bytes()
    found, whole = (results_of(root / name) for name in ("begun", "whole"))
    assert found["held_out"] == [0, 1, 2, 3] and found["data_warnings"] == whole["data_warnings"]
    interrupts.in_evaluation(monkeypatch, call=1)
    assert extend(root / "old", folders["new"], root / "other") == 130
    monkeypatch.undo()
    shutil.rmtree(images["old"])
    capsys.readouterr()
    assert extend(root / "old", folders["new"], root / "other") == 3
    said = capsys.readouterr().err
    assert f"the test images of class {names[0]!r}" in said and "put them back, or start anew" in said


def test_without_images_and_exemplars_the_line_says_what_is_missing(own, folders, capsys):
    root, _ = own
    shutil.rmtree(root / "old")
    shutil.rmtree(root / "new" / "memory")
    assert extend(root / "new", folders["newer"], root / "newer", "method.name=lwf") == 3
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(root / "old") in said[0] and "nothing to test class" in said[0]


def test_the_memory_of_another_run_is_refused(own, names, folders, capsys):
    root, _ = own
    assert run(folders["old"], root / "other", f"data.class_order={names[:4][::-1]}") == 0
    shutil.rmtree(root / "old" / "memory")
    shutil.copytree(root / "other" / "memory", root / "old" / "memory")
    capsys.readouterr()
    assert extend(root / "old", folders["new"], root / "x") == 5
    assert "memory is of another run" in capsys.readouterr().err


def test_logits_are_those_of_the_exemplars_that_are_left(names, folders, tmp_path):
    """Of exemplars that were held out for tests there are none, and some were deleted."""
    images, more = folder_of(tmp_path / "of-old", names[:4]), ("method.name=derpp", "memory.fixed_per_class=4")
    assert run(images, tmp_path / "0", *more, "data.class_order=sorted") == 0
    shutil.rmtree(images)
    assert extend(tmp_path / "0", folders["new"], tmp_path / "1") == 0
    kept = memory_files.load(tmp_path / "1")
    (tmp_path / "1" / "memory" / "000-class000" / "0001.png").unlink()
    stored = checkpoints.load_model(tmp_path / "1").extra["logits"]
    assert [len(stored[str(label)]) for label in range(6)] == [3, 3, 3, 3, 4, 4]
    assert np.bincount(kept.labels).tolist() == [4] * 6
    made = setup.build(extension_config.of_run(tmp_path / "1", [f"data.path={folders['newer']}", "run.device=cpu"]))
    begun = parent.progress(made.extended, made.experiment, dict(made.held_out))
    for label, places in {0: [0, 2], 1: [0, 1, 2], 4: [0, 1, 2, 3]}.items():
        torch.testing.assert_close(begun.extra["logits"][str(label)], stored[str(label)][places], rtol=0, atol=0)
        wanted = kept.images[kept.labels == label][places]
        assert np.array_equal(made.experiment.train_images.gather(begun.exemplars[label]), wanted)
    assert extend(tmp_path / "1", folders["newer"], tmp_path / "2") == 0


def test_what_a_person_should_know_about_the_classes_is_told(own, names):
    """A name that differs in case alone; a calibration that does not go over; what was deleted two runs ago."""
    root, _ = own
    for split in ("train", "test"):
        (root / "alike" / split).mkdir(parents=True)
        os.symlink(tiny.images() / split / names[6], root / "alike" / split / names[0].upper())
        os.symlink(tiny.images() / split / names[7], root / "alike" / split / names[7])
    (root / "new" / "calibration.safetensors").write_bytes(b"x")
    (root / "new" / "memory" / "001-class001" / "0000.png").unlink()
    assert extend(root / "new", root / "alike", root / "2") == 0
    told = " ".join(results_of(root / "2")["data_warnings"])
    assert f"class {names[0].upper()!r} is taken for a new one" in told and "is calibrated, and this run won't" in told
    one = folder_of(root / "one", [sorted(os.listdir(tiny.images() / "train"))[8]])
    assert extend(root / "2", one, root / "3") == 0
    lineage = json.loads((root / "3" / "model.json").read_text())["lineage"]
    assert lineage["deleted"] == []
    assert lineage["parent_deleted"] == [{"run": str(root / "new"), "file": "001-class001/0000.png"}]


@pytest.mark.parametrize("key", ["data.exif_orientation=ignore", "data.background=[0,0,0]"])
def test_files_are_decoded_as_those_of_the_old_run(key, base, folders, tmp_path, capsys):
    assert extend(base / "old", folders["new"], tmp_path / "x", key) == 2
    assert f"--set {key.partition('=')[0]}: stays as it is" in capsys.readouterr().err
    old = shutil.copytree(base / "old", tmp_path / "old")
    described = json.loads((old / "model.json").read_text())
    described["preprocessing"] |= {"exif_orientation": "ignore", "background": None}
    (old / "model.json").write_text(json.dumps(described))
    found = extension_config.of_run(old, [f"data.path={folders['new']}"]).data
    assert found.exif_orientation == "ignore" and list(found.background) == []


def test_one_class_of_a_growing_folder(base, names, tmp_path, capsys):
    """Also of a run whose preset asks for as many folders as ImageNet's subset has."""
    grown = folder_of(tmp_path / "grown", names[:6])
    os.symlink(grown / "test", grown / "val")
    assert extend(base / "old", grown, tmp_path / "x") == 3
    assert "data.subset names a file" in capsys.readouterr().err
    (tmp_path / "new.txt").write_text(f"{names[4]}\n")
    subset = f"data.subset={tmp_path / 'new.txt'}"
    assert extend(base / "old", grown, tmp_path / "new", subset, "data.name=imagenet100") == 0
    assert results_of(tmp_path / "new")["class_names"] == names[:5]
    capsys.readouterr()
    assert extend(base / "old", grown, tmp_path / "new", subset, "data.name=imagenet100") == 0
    assert "warning" not in capsys.readouterr().err
    (tmp_path / "new.txt").write_text(f"{names[5]}\n")  # the next one; its tests are in the same folder
    assert extend(tmp_path / "new", grown, tmp_path / "newer", subset, "data.name=imagenet100") == 0
    assert results_of(tmp_path / "newer")["old_classes_tested_on"] == "test images"


def test_what_was_held_out_stays_in_a_smaller_memory_and_follows_an_edit(own, names, folders):
    """Behind what is trained on, since no later extension can be tested on that as well."""
    root, images = own
    shutil.rmtree(images["old"])
    assert extend(root / "old", folders["new"], root / "first", "memory.size=12") == 0  # 2 a class, of 3
    before, after = (memory_files.load(root / name) for name in ("old", "first"))
    for label in range(4):
        kept, was = after.images[after.labels == label], before.images[before.labels == label]
        assert np.array_equal(kept, was[[0, 2]])
    assert main(["edit", str(root / "first"), "--drop", names[1], "--out", str(root / "edited")]) == 0
    found, whole = results_of(root / "edited"), results_of(root / "first")
    assert found["held_out"] == [0, 1, 2] and whole["held_out"] == [0, 1, 2, 3]
    assert found["class_tests"] == [each for label, each in enumerate(whole["class_tests"]) if label != 1]


def test_an_old_class_under_another_name_is_no_new_one(base, names, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "more" / split).mkdir(parents=True)
        os.symlink(tiny.images() / split / names[2], tmp_path / "more" / split / "another")
        os.symlink(tiny.images() / split / names[6], tmp_path / "more" / split / names[6])
    assert extend(base / "old", tmp_path / "more", tmp_path / "x") == 3
    assert f"class 'another' has the test images of class {names[2]!r}, which" in capsys.readouterr().err


@pytest.mark.parametrize("left", [[], ["loose.png"], ["class000"]])
def test_an_emptied_test_folder_is_no_failure(left, own, names, folders):
    """Or one with a class that lost its images, or with images that are in no class."""
    root, images = own
    shutil.rmtree(images["old"] / "train")
    shutil.rmtree(images["old"] / "test")
    (images["old"] / "test").mkdir()
    for name in left:
        if name.startswith("class"):
            (images["old"] / "test" / name).mkdir()
        else:
            shutil.copy(next((tiny.images() / "test" / names[0]).iterdir()), images["old"] / "test" / name)
    made = setup.build(extension_config.of_run(root / "old", [f"data.path={folders['new']}", "run.device=cpu"]))
    assert made.tested_on == "held-out exemplars" and "test" in made.why_held_out
    assert planning.run_start(made)["train_images"][2] == 2 * 18 + 4 * 2  # of three, one is held out


def test_the_exemplars_of_another_seed_are_refused(own, folders, capsys):
    """They have the same classes in the same order."""
    root, images = own
    assert run(images["old"], root / "other", "data.class_order=sorted", "memory.selection=random") == 0
    shutil.rmtree(root / "old" / "memory")
    shutil.copytree(root / "other" / "memory", root / "old" / "memory")
    capsys.readouterr()
    assert extend(root / "old", folders["new"], root / "x") == 5
    assert "memory is of another run" in capsys.readouterr().err


def test_a_file_that_is_missing_of_the_old_run_is_named(base, folders, tmp_path, capsys):
    old = shutil.copytree(base / "old", tmp_path / "old")
    (old / "config.toml").unlink()
    assert extend(old, folders["new"], tmp_path / "x") == 2
    assert "config.toml is missing" in capsys.readouterr().err


def test_a_file_of_ones_own_that_has_changed_since_is_told(folders, tmp_path, capsys):
    """Where the model goes on, and where it predicts."""
    code = shutil.copy(METHOD, tmp_path / "mine.py")
    assert run(folders["old"], tmp_path / "old", f"method.name={code}:make") == 0
    photo = next(folders["old"].glob("test/*/*"))
    line = f"{code} has changed since {tmp_path / 'old'} was trained by it"
    for changed in (False, True):
        assert main(["predict", str(tmp_path / "old"), str(photo)]) == 0
        assert (line in capsys.readouterr().err) == changed
        if not changed:
            code.write_text(f"{code.read_text()}\n# a remark\n")
    assert extend(tmp_path / "old", folders["new"], tmp_path / "new") == 0
    assert any(each.startswith(line) for each in results_of(tmp_path / "new")["data_warnings"])


def test_a_method_without_exemplars_is_trained_on_all_new_images(own, folders):
    """Though exemplars of the old run are what old classes are tested on."""
    root, images = own
    shutil.rmtree(images["old"])
    more = [f"data.path={folders['new']}", "run.device=cpu", "method.name=lwf"]
    made = setup.build(extension_config.of_run(root / "old", more))
    assert list(made.held_out) == [0, 1, 2, 3] and not made.experiment.method.uses_memory
    assert planning.run_start(made)["train_images"][2] == 2 * 18


@pytest.mark.parametrize("swapped", [False, True])
def test_a_run_in_the_place_of_one_that_it_extends_is_told(swapped, own, folders, tmp_path):
    """Its data have not all old classes, and which run had them is not known any more."""
    root, _ = own
    (root / "old").rename(root / "away")
    (root / "new").rename(root / "old")
    if swapped:
        (root / "away").rename(root / "new")
    made = setup.build(extension_config.of_run(root / "old", [f"data.path={folders['newer']}", "run.device=cpu"]))
    assert made.tested_on == "test images, and 4 of 6 classes on held-out exemplars"
    assert made.why_held_out.endswith(f"{root / 'old'}, which says where others are, is another run now")
    assert extend(root / "old", folders["newer"], root / "2", "memory.fixed_per_class=3") == 0
    one = folder_of(tmp_path / "one", [sorted(os.listdir(tiny.images() / "train"))[8]])
    made = setup.build(extension_config.of_run(root / "2", [f"data.path={one}", "run.device=cpu"]))
    assert "of some no fingerprint is known" not in made.why_held_out and list(made.held_out) == [0, 1, 2, 3]


def test_images_that_cannot_be_opened_are_a_reason_and_no_end(base, folders, monkeypatch):
    """Of streamed ones some are opened, to compare them."""

    def fails(*given):
        raise DataError("the file is locked")

    monkeypatch.setattr("cil_func.runs.old_tests._rows", fails)
    made = setup.build(extension_config.of_run(base / "old", [f"data.path={folders['new']}", "run.device=cpu"]))
    assert made.tested_on == "held-out exemplars" and "the file is locked" in made.why_held_out


def test_notes_of_a_line_of_extensions_say_whose_they_are(own, names, folders, tmp_path):
    root, images = own
    shutil.rmtree(images["old"])
    one = folder_of(tmp_path / "one", [sorted(os.listdir(tiny.images() / "train"))[8]])
    chain = [root / "old", root / "1", root / "2", root / "3"]
    for before, after, new in zip(chain, chain[1:], (folders["new"], folders["newer"], one), strict=False):
        assert extend(before, new, after, "memory.fixed_per_class=3") == 0
    told = [line for line in results_of(root / "3")["data_warnings"] if "old classes are tested on" in line]
    assert [line.partition(" classes")[0] for line in told] == [f"{root / '1'}: old", f"{root / '2'}: old", "old"]


@pytest.mark.parametrize(("now", "fits"), [
    ("{'a': torch.zeros(4, 2)}", True), ("{'a': torch.zeros(2, 2)}", False), ("{'a': torch.zeros(3)}", False),
    ("{'b': torch.zeros(3, 2)}", False), ("{'a': torch.zeros(3, 2), 'b': torch.zeros(())}", False),
])  # fmt: skip
def test_a_method_that_remembers_other_things_now_is_refused(now, fits, folders, tmp_path, capsys):
    """Each tensor would begin with what was remembered, whatever it means by now."""
    code = tmp_path / "own.py"
    text = (
        "import torch\nfrom dataclasses import replace\nfrom cil_func.methods import finetune\n"
        "from cil_func.methods.extra import Extra\n\n\ndef make(options):\n"
        "    extra = Extra(start=lambda params: START, begin=lambda extra, params, classes: extra)\n"
        "    return replace(finetune.make(options), name='own', extra=extra)\n"
    )
    code.write_text(text.replace("START", "{'a': torch.zeros(3, 2)}"))
    assert run(folders["old"], tmp_path / "old", f"method.name={code}:make") == 0
    code.write_text(text.replace("START", now))
    os.utime(code, (0, 0))  # not the time of the byte code that Python kept
    config_names.forget()
    capsys.readouterr()
    done = extend(tmp_path / "old", folders["new"], tmp_path / "new")
    assert done == (0 if fits else 2) and ("begins with another " in capsys.readouterr().err) == (not fits)


def test_where_some_fingerprints_are_not_known_it_is_said(base, folders, tmp_path):
    old = shutil.copytree(base / "old", tmp_path / "old")
    results = results_of(old)
    results["class_tests"][1] = ""
    (old / "results.json").write_text(json.dumps(results))
    made = setup.build(extension_config.of_run(old, [f"data.path={folders['new']}", "run.device=cpu"]))
    assert list(made.held_out) == [1] and made.why_held_out == "of some no fingerprint is known"


def test_results_that_are_no_table_are_named(base, folders, tmp_path, capsys):
    old = shutil.copytree(base / "old", tmp_path / "old")
    for text in ("null", "[]", "3"):
        (old / "results.json").write_text(text)
        assert extend(old, folders["new"], tmp_path / "x") == 5
        assert "results.json can't be used" in capsys.readouterr().err
