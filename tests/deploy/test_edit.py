"""The command edit: what the new directory holds, what stays the same to the bit, mistakes, and interrupted edits."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import cil_func
from benchmarks import measure
from cil_func import config
from cil_func.__main__ import main
from cil_func.deploy import edit, edit_plan, model_card
from cil_func.errors import ConfigError
from cil_func.runs import checkpoints, memory_files, parent, status
from cil_func.training import evaluation

ROOT = Path(cil_func.__file__).parents[1]


def run_edit(capsys, *words):
    """(exit status, lines of stdout, lines of stderr) of the command."""
    found = main(["edit", *map(str, words)])
    out, err = capsys.readouterr()
    return found, out.splitlines(), err.splitlines()


def files(trained):
    return sorted((trained.images / "test").glob("*/*.png"))


def test_a_dropped_class_leaves_the_rows_of_the_others(trained, capsys, tmp_path):
    before = cil_func.load(trained.directory)
    gone = before.class_names[1]
    found, out, errors = run_edit(capsys, trained.directory, "--drop", gone, "--out", tmp_path / "new")
    assert (found, errors) == (0, [])
    assert out[0] == f"{tmp_path / 'new'}: 3 of 4 classes; without {gone}"
    assert out[1].startswith("note: dropping a class is not unlearning: ")
    after = cil_func.load(tmp_path / "new")
    assert after.class_names == (before.class_names[0], *before.class_names[2:])
    for name, leaf in after.params["classifier"].items():
        assert torch.equal(leaf, before.params["classifier"][name][[0, 2, 3]])
    if before.saved.means is not None:
        assert torch.equal(after.saved.means, before.saved.means[[0, 2, 3]])
    assert after.saved.description["phases"] == [1, 2]
    # softmax over fewer columns: what was there, shared out anew
    whole = before(files(trained)).numpy()[:, [0, 2, 3]]
    np.testing.assert_allclose(after(files(trained)).numpy(), whole / whole.sum(1, keepdims=True), rtol=1e-5)


def test_the_new_directory_is_complete(trained, capsys, tmp_path):
    names = cil_func.load(trained.directory).class_names
    new = tmp_path / "deep/new"
    words = ("--drop", names[0], "--rename", f"{names[2]}=emmet", "--out", new)
    assert run_edit(capsys, trained.directory, *words)[0] == 0
    assert {"config.toml", "model.safetensors", "model.json", "results.json", "status.json"} <= {
        path.name for path in new.iterdir()
    }
    assert [path.name for path in new.parent.iterdir()] == ["new"]
    assert config.load(str(new / "config.toml")) == config.load(str(trained.directory / "config.toml"))
    assert status.read(new)["state"] == "finished"
    results, old = json.loads((new / "results.json").read_text()), trained.results
    assert results["class_names"] == [names[1], "emmet", names[3]] and results["num_classes"] == 3
    assert results["class_order"] == old["class_order"][1:]
    # nothing was measured of this model
    assert (results["phases"], results["last_accuracy"], results["accuracy_matrix"]) == ([], None, [])
    assert results["before_edit"]["last_accuracy"] == old["last_accuracy"]
    assert results["before_edit"]["phases"] == old["phases"] and results["before_edit"]["class_names"] == list(names)
    stored = json.loads((new / "memory/memory.json").read_text())
    assert results["memory"] == {key: stored[key] for key in ("images", "bytes", "per_class")}
    card = model_card.card(cil_func.load(new), new)
    assert "## Results\n\nClasses were dropped from this model" in card and "model-index" not in card
    parent = checkpoints.load_model(trained.directory).description
    history = checkpoints.load_model(new).description["lineage"]
    assert history["edits"] == [
        {
            "parent": {"run": str(trained.directory), "sha256": parent["sha256"]},
            "dropped": [names[0]], "renamed": {names[2]: "emmet"}, "unlearned": False,
        }
    ]  # fmt: skip
    assert {key: history[key] for key in history if key != "edits"} == (parent.get("lineage") or {})


def test_nothing_that_was_measured_stays_after_a_drop(trained):
    """Whatever an evaluation sums up, also on validation images."""
    row = {"top1": 50.0, "per_phase_top1": [50.0]}
    measured = {"phases": [row], **evaluation.summary([row | {"validation": row}])}
    assert "validation" in measured
    results = {"class_order": [0, 1], "class_names": ["a", "b"], **measured}
    found = edit.edited_results(results, edit_plan.plan("ab", ["a"], []), run="run")
    assert {key: found[key] for key in measured if found[key]} == {}
    assert {key: found["before_edit"][key] for key in measured} == measured


def test_an_edited_model_can_be_edited_again(trained, capsys, tmp_path):
    names = cil_func.load(trained.directory).class_names
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_edit(capsys, trained.directory, "--rename", f"{names[0]}=a=b", "--out", first)[0] == 0
    assert json.loads((first / "results.json").read_text())["phases"] == trained.results["phases"]  # still true
    words = ("--drop", names[2], "--drop", names[3], "--rename", "a=b=ant", "--out", second)
    second.mkdir()  # an empty folder may be there
    assert run_edit(capsys, first, *words)[0] == 0
    description = checkpoints.load_model(second).description
    assert [entry["name"] for entry in description["classes"]] == ["ant", names[1]]
    assert [edit["renamed"] for edit in description["lineage"]["edits"]] == [{names[0]: "a=b"}, {"a=b": "ant"}]
    assert description["phases"] == [2, 0]
    probabilities = cil_func.load(second)(files(trained))
    assert probabilities.shape == (16, 2) and torch.allclose(probabilities.sum(1), torch.ones(16).double())


def test_exemplars_go_and_stay_with_their_classes(trained, capsys, tmp_path):
    """One of the parent's images was deleted by a person; the lists still name it."""
    run = shutil.copytree(trained.directory, tmp_path / "run")
    before = memory_files.load(run)
    lost = next((run / "memory").glob("002-*/0001.png"))
    lost.unlink()
    words = ("--drop", before.class_names[1], "--rename", f"{before.class_names[3]}=a/b", "--out", tmp_path / "new")
    assert run_edit(capsys, run, *words)[0] == 0
    after = memory_files.load(tmp_path / "new")
    assert after.class_names == (before.class_names[0], before.class_names[2], "a/b")
    kept = [row for row, label in enumerate(before.labels) if label != 1]
    del kept[[before.labels[row] for row in kept].index(2) + 1]
    assert np.array_equal(after.images, before.images[kept])
    assert [{0: 0, 1: 2, 2: 3}[label] for label in after.labels] == before.labels[kept].tolist()
    assert after.sources == tuple(before.sources[row] for row in kept)
    assert [name.split("/")[0] for name in after.deleted] == [f"001-{before.class_names[2]}"]
    sizes = json.loads((tmp_path / "new/memory/memory.json").read_text())
    assert len(sizes["per_class"]) == 3 and sizes["images"] == len(kept) + 1
    assert sizes["bytes"] == sizes["images"] * 8 * 8 * 3


def test_names_that_no_folder_can_have_are_told(trained, capsys, tmp_path):
    words = ("--rename", "class000=a/b", "--rename", "class001=.ant", "--rename", "class002=b.c")
    found, out, errors = run_edit(capsys, trained.directory, *words, "--out", tmp_path / "new")
    assert (found, errors, len(out)) == (0, [], 2)
    assert out[1].startswith('note: no folder of images can be called "a/b", ".ant": calibrate and compare --data ')


def test_without_exemplars_there_is_no_memory(trained, capsys, tmp_path):
    run = shutil.copytree(trained.directory, tmp_path / "run", ignore=shutil.ignore_patterns("memory"))
    assert run_edit(capsys, run, "--drop", "class000", "--out", tmp_path / "new")[0] == 0
    assert not (tmp_path / "new/memory").exists()


def test_what_a_method_remembers_loses_the_rows_too():
    rows = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.arange(3.0)}
    params = {"backbone": {"net": {"w": torch.ones(3)}}, "classifier": rows}
    sizes = {"classes": [{"name": name, "index": at} for at, name in enumerate("abc")], "phases": [2, 1]}
    saved = checkpoints.SavedModel(
        params, {}, None, {**sizes, "sha256": "x"}, {"importance": params, "anchor": {"classifier": rows}}
    )
    found = edit.edited(saved, edit_plan.plan("abc", ["b"], []), run="run")
    for tree in (found.params, found.extra["importance"], found.extra["anchor"]):
        assert tree["classifier"]["weight"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
        assert tree["classifier"]["bias"].tolist() == [0.0, 2.0]
    assert found.extra["importance"]["backbone"]["net"]["w"].tolist() == [1.0, 1.0, 1.0]
    assert found.means is None and found.description["phases"] == [1, 1]


def test_a_run_without_some_classes_is_not_extended(trained, capsys, tmp_path):
    """Also if the last edit has only renamed."""
    assert run_edit(capsys, trained.directory, "--drop", "class000", "--out", tmp_path / "one")[0] == 0
    assert run_edit(capsys, tmp_path / "one", "--rename", "class001=ant", "--out", tmp_path / "two")[0] == 0
    assert json.loads((tmp_path / "two/results.json").read_text())["before_edit"]["phases"] == trained.results["phases"]
    stored = config.load(str(trained.directory / "config.toml"))
    for name in ("one", "two"):
        extending = stored.run.model_copy(update={"extends": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=r"classes were dropped from it.*drop classes afterwards"):
            parent.read(stored.model_copy(update={"run": extending}))


def test_an_edited_run_is_compared_under_its_new_names(trained, capsys, tmp_path):
    """The folders of the data have the old names, and so has the run before the edit."""
    names = cil_func.load(trained.directory).class_names
    exchange = ("--rename", f"{names[0]}={names[1]}", "--rename", f"{names[1]}={names[0]}")
    assert run_edit(capsys, trained.directory, *exchange, "--drop", names[3], "--out", tmp_path / "new")[0] == 0
    assert main(["compare", str(trained.directory), str(tmp_path / "new"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["kind"]) for each in found["classes"]] == [
        (names[1], "kept"), (names[0], "kept"), (names[2], "kept"), (names[3], "dropped"),
    ]  # fmt: skip
    assert found["kept"]["images"] == 12 and found["kept"]["negative_flips"] == 0 and found["untested"] == []


def test_two_edits_of_one_edited_model_are_compared_class_by_class(trained, capsys, tmp_path):
    """Its exchange of two names is in both, so that nothing is exchanged between them; other renames are undone."""
    a, b, c, d = cil_func.load(trained.directory).class_names
    words = {"0": (trained.directory, f"{a}={b}", f"{b}={a}"), "1": (tmp_path / "0", f"{c}=katze"),
             "2": (tmp_path / "0", f"{c}=chat")}  # fmt: skip
    for name, (run, *renames) in words.items():
        flags = [word for each in renames for word in ("--rename", each)]
        assert run_edit(capsys, run, *flags, "--out", tmp_path / name)[0] == 0
    run_edit(capsys, trained.directory, "--rename", f"{c}=gato", "--out", tmp_path / "3")
    shutil.copytree(trained.directory, tmp_path / "run")
    pairs = [("1", "2", "chat"), ("2", "1", "katze"), ("1", "0", c), ("0", "1", "katze")]
    pairs += [("3", "run", c), ("run", "3", "gato")]
    for old, new, name in pairs:
        assert main(["compare", str(tmp_path / old), str(tmp_path / new), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {each["name"]: each["kind"] for each in found["classes"]} == dict.fromkeys((a, b, name, d), "kept")
        assert found["kept"]["images"] == 16 and found["kept"]["negative_flips"] == 0


@pytest.fixture(scope="module")
def extended(runs, tmp_path_factory):
    """renamed/: the run "wa", whose class000 is called wasp; new/: its extension by another class000 and by bee."""
    root = tmp_path_factory.mktemp("extended")
    measure.write_images(root / "more", classes=2, train=12, test=4, size=12, seed=1)
    for split in ("train", "test"):
        (root / "more" / split / "class001").rename(root / "more" / split / "bee")
    words = [str(runs["wa"].directory), "--rename", "class000=wasp", "--out", str(root / "renamed")]
    assert main(["edit", *words]) == 0
    flags = ["--extend", str(root / "renamed"), "--set", f"data.path={root / 'more'}", "--out", str(root / "new")]
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        assert main(["train", *flags]) == 0
    return root


def test_an_extension_knows_the_renames_of_what_it_extends(extended, runs, capsys):
    """The test images of a class come from the folder of its first name."""
    for old in (runs["wa"].directory, extended / "renamed"):
        assert main(["compare", str(old), str(extended / "new"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        kinds = {each["name"]: each["kind"] for each in found["classes"]}
        assert kinds == dict.fromkeys(("wasp", "class001", "class002", "class003"), "kept") | {
            "class000": "new", "bee": "new"
        }  # fmt: skip
        assert found["untested"] == [] and {each["images"] for each in found["classes"]} == {4}
        files = sorted((runs["wa"].images / "test/class000").iterdir())
        model = cil_func.load(extended / "new")
        right = (model(files).argmax(1) == model.class_names.index("wasp")).double().mean().item()
        assert next(each for each in found["classes"] if each["name"] == "wasp")["after"] == 100 * right


def test_what_was_extended_has_other_classes_of_the_same_names(extended, runs, capsys):
    """The class that is wasp in the extension is class000 there; that of the extension's own is not known."""
    assert main(["compare", str(extended / "new"), str(runs["wa"].directory), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in found["classes"] if each["kind"] == "dropped"} == {"bee", "class000"}
    assert found["kept"]["classes"] == 4 and {each["images"] for each in found["classes"]} == {4}
    files, model = sorted((runs["wa"].images / "test/class000").iterdir()), cil_func.load(extended / "new")
    right = (model(files).argmax(1) == model.class_names.index("wasp")).double().mean().item()
    assert next(each for each in found["classes"] if each["name"] == "class000")["before"] == 100 * right


@pytest.mark.parametrize("left", ["nothing", "a damaged config.toml"])
def test_an_extension_of_a_run_that_was_moved(extended, tmp_path, capsys, left):
    """OLD is that run, and knows where the images are."""
    shutil.copytree(extended / "new", tmp_path / "new")
    config_file, gone = tmp_path / "new/config.toml", tmp_path / "gone"
    config_file.write_text(config_file.read_text().replace(str(extended / "renamed"), str(gone)))
    if left != "nothing":
        gone.mkdir()
        (gone / "config.toml").write_text("[run")
    assert main(["compare", str(extended / "renamed"), str(tmp_path / "new"), "--json", "--worse-by", "100"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["untested"] == [] and {each["images"] for each in found["classes"]} == {4}
    assert len(err.splitlines()) == 1 and err.startswith("compare: ") and str(gone) in err


def test_an_extension_is_renamed_too(extended, tmp_path, runs, capsys):
    words = ("--rename", "wasp=fly", "--rename", "class000=wasp")
    assert run_edit(capsys, extended / "new", *words, "--out", tmp_path / "edited")[0] == 0
    for old in (runs["wa"].directory, extended / "renamed", extended / "new"):
        assert main(["compare", str(old), str(tmp_path / "edited"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        kept = sorted(each["name"] for each in found["classes"] if each["kind"] == "kept")
        of_extension = ["bee", "wasp"] if old == extended / "new" else []
        assert kept == sorted(["class001", "class002", "class003", "fly", *of_extension])
        assert found["untested"] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--drop", "clas000"], '--drop "clas000": "clas000" is no class of this model; did you mean "class000"?'),
        (["--drop", "zzz"], '"zzz" is no class of this model; there are "class00'),
        (["--rename", "clas000=ant"], 'did you mean "class000"?'),
        (["--rename", "class000"], 'no "="; write --rename OLD=NEW'),
        (["--rename", "class000="], "no new name; write --rename OLD=NEW"),
        (["--rename", "class000=class001"], '--rename "class000": there is a class "class001" already; choose another'),
        (["--rename", "class000=ant", "--rename", "class001=ant"], 'there is a class "ant" already'),
        (["--rename", "class000=ant", "--rename", "class000=bee"], '"class000" gets two names; give one'),
        (["--rename", "class000=ant", "--drop", "class000"], "it is dropped too; say once what becomes of it"),
        (["--drop", "class000", "--drop", "class000"], '--drop "class000": given twice; say once'),
        ([word for n in range(4) for word in ("--drop", f"class00{n}")], "no class of 4 would be left; keep one"),
        ([], "nothing to do; give --drop CLASS or --rename OLD=NEW"),
    ],
)
def test_mistakes_are_one_line(trained, capsys, tmp_path, words, line):
    found, out, errors = run_edit(capsys, trained.directory, *words, "--out", tmp_path / "new")
    assert (found, out, len(errors)) == (2, [], 1)
    assert errors[0].startswith("edit: ") and line in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(trained, capsys, tmp_path, monkeypatch):
    words = ("--drop", "class000", "--out")
    assert run_edit(capsys, trained.directory, "--drop", "class000")[0] == 2  # no --out
    for out, line in ((trained.directory, "not empty, it holds "), (trained.directory / "config.toml", "is a file")):
        found, _, errors = run_edit(capsys, trained.directory, *words, out)
        assert found == 2 and line in errors[0] and "choose another" in errors[0]
    found, _, errors = run_edit(capsys, trained.copy, *words, tmp_path / "new")
    assert found == 5 and "results.json: No such file" in errors[0]
    monkeypatch.chdir(tmp_path)
    found, _, errors = run_edit(capsys, trained.directory, *words, ".")
    assert (found, errors) == (2, ["edit: --out .: the current directory can't be replaced; name a folder in it"])
    with edit.new_directory(tmp_path / "new"):
        found, _, errors = run_edit(capsys, trained.directory, *words, tmp_path / "new")
    assert found == 6 and "is in use by process" in errors[0]


@pytest.mark.parametrize("at", ["config.toml", "results.json", "status.json"])
def test_an_interrupted_edit_leaves_nothing(trained, capsys, tmp_path, monkeypatch, at):
    write = edit.files.write_chunks

    def interrupted(path, chunks):
        if Path(path).name == at:
            raise KeyboardInterrupt
        write(path, chunks)

    monkeypatch.setattr(edit.files, "write_chunks", interrupted)
    assert run_edit(capsys, trained.directory, "--drop", "class000", "--out", tmp_path / "new")[0] == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trained", ["wa"], indirect=True)
def test_a_killed_edit_leaves_no_half_directory_and_the_next_one_works(trained, capsys, tmp_path):
    code = (
        "import sys, time; from cil_func.deploy import edit; write = edit.files.write_json\n"
        "def slow(path, value):\n"
        "    if path.name == 'results.json': print('there', flush=True); time.sleep(60)\n"
        "    write(path, value)\n"
        "edit.files.write_json = slow; edit.main(sys.argv[1:])"
    )
    words = [str(trained.directory), "--drop", "class000", "--out", str(tmp_path / "new")]
    with subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "there\n"
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "new").exists()
    assert run_edit(capsys, *words)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert sorted(cil_func.load(tmp_path / "new").class_names) == ["class001", "class002", "class003"]
