"""Models of one line of edits and extensions are compared class by class, whatever the classes are called."""

import json

import pytest
import tiny

import cil_func
from benchmarks import measure
from cil_func.__main__ import main
from cil_func.deploy import edit_history

FIRST = ("class000", "class001", "class002", "class003")


def edited(run, out, *, drop=(), rename=()):
    """Edits a run; returns the new directory."""
    flags = [f"--drop={name}" for name in drop] + [f"--rename={pair}" for pair in rename]
    assert main(["edit", str(run), *flags, "--out", str(out)]) == 0
    return out


def extended(run, out, names):
    """Extends a run by new classes, with images beside `out`; returns the new directory."""
    images = out.with_name(f"{out.name}-images")
    measure.write_images(images, classes=len(names), train=12, test=4, size=12, seed=len(names))
    for split in ("train", "test"):
        for number, name in enumerate(names):
            (images / split / f"class{number:03d}").rename(images / split / name)
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        assert main(["train", "--extend", str(run), "--set", f"data.path={images}", "--out", str(out)]) == 0
    return out


def compared(capsys, old, new, *words):
    """The JSON of the command; also its table has been printed without a mistake."""
    capsys.readouterr()
    assert main(["compare", str(old), str(new), *map(str, words)]) == 0
    assert main(["compare", str(old), str(new), *map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    assert "\\x00" not in out and "\\u0000" not in out
    return json.loads(out[out.index("\n{") :])


def kinds(found):
    return sorted((each["name"], each["kind"]) for each in found["classes"])


def as_kinds(**names):
    return sorted((name, kind) for kind, all_names in names.items() for name in all_names)


def right(run, files, name):
    """The share of images, in percent, that a model calls `name`."""
    model = cil_func.load(run)
    return 100 * (model(files).argmax(1) == model.class_names.index(name)).double().mean().item()


@pytest.fixture(scope="module")
def line(runs, tmp_path_factory):
    """The run "wa"; second/, which extends it by bee and cat; third/, which extends that by dog; bee is hornet there.

    Returns the three directories.
    """
    root = tmp_path_factory.mktemp("line")
    second = extended(runs["wa"].directory, root / "second", ["bee", "cat"])
    called = edited(second, root / "called", rename=["bee=hornet"])
    return runs["wa"].directory, second, extended(called, root / "third", ["dog"])


@pytest.mark.parametrize("steps", [1, 2])
def test_the_name_of_a_dropped_class_may_go_to_another(runs, tmp_path, capsys, steps):
    """Each is judged by its own images."""
    run, images = runs["wa"].directory, runs["wa"].images / "test"
    edits = [{"drop": ["class000"]}, {"rename": ["class001=class000"]}]
    new = run
    for step, flags in enumerate([edits[0] | edits[1]] if steps == 1 else edits):
        new = edited(new, tmp_path / str(step), **flags)
    found = compared(capsys, run, new)
    assert kinds(found) == as_kinds(kept=["class000", "class002", "class003"], dropped=["class000"])
    assert {each["images"] for each in found["classes"]} == {4}
    heir, gone = (each for each in found["classes"] if each["name"] == "class000")  # the dropped ones are last
    files = sorted((images / "class001").iterdir())
    assert (heir["before"], heir["after"]) == (right(run, files, "class001"), right(new, files, "class000"))
    assert gone["before"] == right(run, sorted((images / "class000").iterdir()), "class000")
    assert found["kept"]["negative_flips"] == 0 and found["untested"] == []
    back = compared(capsys, new, run)
    assert kinds(back) == as_kinds(kept=["class001", "class002", "class003"], new=["class000"])
    assert back["kept"]["images"] == 12 and back["kept"]["positive_flips"] == 0


def test_a_name_that_was_given_twice(runs, tmp_path, capsys):
    run, first = runs["wa"].directory, tmp_path / "first"
    edited(run, first, drop=["class000"], rename=["class001=class000"])
    found = compared(capsys, run, edited(first, tmp_path / "new", drop=["class000"], rename=["class002=class000"]))
    assert kinds(found) == as_kinds(kept=["class000", "class003"], dropped=["class000", "class000"])
    assert {each["images"] for each in found["classes"]} == {4}


def test_a_folder_has_the_images_of_a_dropped_class_under_its_name(runs, tmp_path, capsys):
    """Those of the class that has the name now, if there is one."""
    run, images = runs["wa"].directory, runs["wa"].images
    for out, rename, of_dropped in (("a", ["class001=ant"], 4), ("b", ["class001=class000"], 0)):
        new = edited(run, tmp_path / out, drop=["class000"], rename=rename)
        found = compared(capsys, run, new, "--data", images)
        assert (found["classes"][-1]["name"], found["classes"][-1]["kind"]) == ("class000", "dropped")
        assert found["classes"][-1]["images"] == of_dropped


@pytest.mark.parametrize(("at", "new"), [(1, ["bee", "cat"]), (2, ["hornet", "cat", "dog"])])
@pytest.mark.parametrize("name", ["emmet", "cat"])
def test_renames_of_what_was_extended_are_taken_back(line, tmp_path, capsys, at, new, name):
    """Also if the extension has learned another class of the new name."""
    old = edited(line[0], tmp_path / "old", rename=[f"class001={name}"])
    found = compared(capsys, old, line[at])
    assert kinds(found) == as_kinds(kept=FIRST, new=new)
    assert found["untested"] == [] and {each["images"] for each in found["classes"]} == {4}


@pytest.mark.parametrize(("at", "gone"), [(1, ["bee", "cat"]), (2, ["bee", "cat", "dog"])])
def test_renames_of_an_extension_are_taken_back(line, tmp_path, capsys, at, gone):
    """Images of the classes that NEW doesn't know come from all runs that OLD has gone on from."""
    old = edited(line[at], tmp_path / "old", rename=["class001=emmet"])
    found = compared(capsys, old, line[0])
    assert kinds(found) == as_kinds(kept=FIRST, dropped=gone)
    assert {each["images"] for each in found["classes"]} == {4}


def test_two_extensions_of_edits_of_one_run(line, tmp_path, capsys):
    other = extended(edited(line[0], tmp_path / "called", rename=["class001=emmet"]), tmp_path / "other", ["elk"])
    found = compared(capsys, line[2], other)
    assert kinds(found) == as_kinds(
        kept=["class000", "emmet", "class002", "class003"], new=["elk"], dropped=["bee", "cat", "dog"]
    )
    assert {each["images"] for each in found["classes"]} == {4}


def test_a_class_that_an_extension_has_learned_is_not_one_that_an_edit_has_called_so(line, tmp_path, capsys):
    new = edited(line[0], tmp_path / "new", rename=["class001=cat"])
    found = compared(capsys, line[1], new)
    assert kinds(found) == as_kinds(kept=["class000", "cat", "class002", "class003"], dropped=["bee", "cat"])
    assert {each["images"] for each in found["classes"]} == {4}


def described(sha256, *edits, parent=None):
    """The content of a model.json. edits: (SHA-256 before, renames)."""
    made = [{"parent": {"run": "", "sha256": of}, "dropped": [], "renamed": renamed} for of, renamed in edits]
    return {"sha256": sha256, "lineage": {"parent": parent, "edits": made}}


def test_models_that_were_trained_apart_are_matched_by_name():
    """Someone has trained anew with the right names; the other model got them by an edit."""
    anew, edited_one = described("y"), described("x", ("x", {"dog": "cat"}))
    for old, new in ((anew, edited_one), (edited_one, anew)):
        assert [edit_history.renames_since(old, new)(name) for name in ("cat", "ant")] == ["cat", "ant"]


def test_data_of_a_run_whose_edit_is_taken_back():
    """They have the images of the class that it has dropped, too."""
    run, fewer = described("x"), described("y", ("x", {"bee": "ant"}))
    fewer["lineage"]["edits"][0]["dropped"] = ["ant"]
    name_of = edit_history.after(edit_history.renames(fewer), edit_history.renames_since(fewer, run))
    assert [name_of(name) for name in ("ant", "bee", "cow")] == ["ant", "bee", "cow"]


def test_a_run_that_is_no_longer_what_was_extended_is_not_followed(tmp_path):
    """In its directory is another model now."""
    (tmp_path / "model.json").write_text(json.dumps(described("z", parent={"run": "nowhere", "sha256": "x"})))
    new = described("w", parent={"run": str(tmp_path), "sha256": "y"})
    old = described("x", ("x", {"dog": "cat"}))
    assert edit_history.renames_since(old, new)("cat") == "cat"
    (tmp_path / "model.json").write_text(json.dumps(described("y", parent={"run": "nowhere", "sha256": "x"})))
    assert edit_history.renames_since(old, new)("cat") == "dog"
