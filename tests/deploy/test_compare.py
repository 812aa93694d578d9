"""The command compare: two models on the same images, its table, JSON, page, exit status and mistakes."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from model_copies import changed, with_classes, without_last

import cil_func
from cil_func import config
from cil_func.__main__ import main
from cil_func.deploy import inputs, labelled
from cil_func.runs import checkpoints, load_data


def compare(capsys, *words):
    """(exit status, stdout, lines of stderr) of the command."""
    status = main(["compare", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


def answers(trained):
    """(true classes, probabilities (N, K)) of the test images as numpy arrays; the classes' names by column."""
    files = sorted((trained.images / "test").glob("*/*.png"))
    model = cil_func.load(trained.directory)
    return np.array([file.parent.name for file in files]), model(files).numpy(), np.array(model.class_names)


def test_a_model_does_not_differ_from_itself(trained, capsys):
    status, out, errors = compare(capsys, trained.directory, trained.directory, "--json", "--worse-by", 0)
    found, (truth, probabilities, names) = json.loads(out), answers(trained)
    right = names[probabilities.argmax(1)] == truth
    assert (status, errors) == (0, [])
    assert found["kept"]["before"] == found["kept"]["after"] == trained.results["last_accuracy"] == 100 * right.mean()
    assert found["kept"]["negative_flips"] == found["kept"]["positive_flips"] == found["new"]["classes"] == 0
    for entry in found["classes"]:
        assert entry["before"] == entry["after"] == 100 * right[truth == entry["name"]].mean()


def test_flips_are_counted_where_two_classes_are_exchanged(trained, capsys, tmp_path):
    truth, probabilities, names = answers(trained)
    swapped = names[[1, 0, 2, 3]]
    new = changed(trained.directory, tmp_path / "new", lambda saved: with_classes(saved, swapped.tolist()))
    before, after = (each[probabilities.argmax(1)] == truth for each in (names, swapped))
    status, out, errors = compare(capsys, trained.directory, new, "--json")
    found = json.loads(out)
    assert (status, errors, found["images"], found["unread"]) == (0, [], 16, 0)
    assert found["kept"]["negative_flips"] == (before & ~after).sum()
    assert found["kept"]["positive_flips"] == (after & ~before).sum()
    assert found["kept"]["change"] == pytest.approx(100 * after.mean() - 100 * before.mean())
    for entry in found["classes"]:
        of_class = truth == entry["name"]
        assert (entry["images"], entry["before"], entry["after"]) == (
            4, 100 * before[of_class].mean(), 100 * after[of_class].mean()
        )  # fmt: skip
    sure = probabilities.max(1)
    place = np.ceil(sure * 15)
    error = sum(abs((sure - after)[place == bin].sum()) for bin in range(1, 16)) / 16
    assert found["calibration"]["kept"]["after"] == pytest.approx(error, abs=1e-12)


def test_what_a_new_class_took(trained, capsys, tmp_path):
    """The older model has the same rows without the last: its answer is the best of the other columns."""
    truth, probabilities, names = answers(trained)
    old = changed(trained.directory, tmp_path / "old", without_last)
    said_before, said = names[probabilities[:, :3].argmax(1)], names[probabilities.argmax(1)]
    status, out, errors = compare(capsys, old, trained.directory, "--json")
    found, kept = json.loads(out), truth != names[3]
    assert (status, errors) == (0, [])
    assert [entry["kind"] for entry in found["classes"]] == ["kept", "kept", "kept", "new"]
    assert found["kept"]["before"] == pytest.approx(100 * (said_before == truth)[kept].mean())
    assert found["kept"]["lost_to_new"] == (said == names[3])[kept].sum()
    expected = {
        name: ((said == names[3]) & (truth == name)).sum() for name in names[:3]
    }  # the last class takes from each
    assert {each["from"]: each["images"] for each in found["taken"]} == {k: v for k, v in expected.items() if v}
    assert found["new"]["after"] == pytest.approx(100 * (said == truth)[~kept].mean())
    back = json.loads(compare(capsys, trained.directory, old, "--json")[1])  # the other way round it is dropped
    assert back["classes"][-1]["kind"] == "dropped" and back["classes"][-1]["after"] is None
    assert back["kept"]["before"] == found["kept"]["after"] and back["taken"] == []


def test_a_fall_beyond_the_limit_exits_with_1(trained, capsys, tmp_path):
    names = [entry["name"] for entry in checkpoints.load_model(trained.directory).description["classes"]]
    new = changed(trained.directory, tmp_path / "new", lambda saved: with_classes(saved, [*names[1:], names[0]]))
    found = json.loads(compare(capsys, trained.directory, new, "--json")[1])
    worst = min(found["classes"], key=lambda entry: entry["change"])
    assert worst["change"] < 0
    status, _, errors = compare(capsys, trained.directory, new, "--worse-by", -worst["change"] - 0.5)
    assert status == 1 and any(line.startswith(f"compare: {worst['name']} has fallen by ") for line in errors)
    assert compare(capsys, trained.directory, new, "--worse-by", -worst["change"])[0] == 0


class Tags(HTMLParser):
    """Notes the tags, and what refers to another file."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.foreign = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.foreign += [value for key, value in attrs if key in ("src", "href")]


def test_table_and_page(trained, capsys, tmp_path):
    odd = "<b>&\u200b"
    names = [entry["name"] for entry in checkpoints.load_model(trained.directory).description["classes"]]
    new = changed(trained.directory, tmp_path / "new", lambda saved: with_classes(saved, [*names[:3], odd]))
    status, out, errors = compare(capsys, trained.directory, new, "--out", tmp_path / "out")
    assert status == 0 and errors == ["compare: no test image of <b>&\\u200b"]
    assert max(len(line) for line in out.splitlines() if not line.startswith(("before: ", "after: "))) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if re.match(r"class\d", line)}
    found = json.loads((tmp_path / "out/compare.json").read_text())
    assert found["models"] == {"before": str(trained.directory), "after": str(new)}
    assert out.startswith(f"before: {trained.directory}\nafter:  {new}\n")
    for entry in found["classes"]:
        if entry["kind"] == "kept":
            assert rows[entry["name"]][:3] == [str(entry["images"]), f"{entry['before']:.1f}", f"{entry['after']:.1f}"]
    assert f"dropped: {names[3]}" in out
    page = (tmp_path / "out/compare.html").read_text(encoding="utf-8")
    assert f"after: <code>{new}</code>" in page
    tags = Tags()
    tags.feed(page)
    assert tags.foreign == [] and "script" not in tags.seen and "b" not in tags.seen
    assert tags.seen.count("tr") >= 1 + len(found["classes"]) and "&lt;b&gt;&amp;" in page


def test_images_of_a_folder(trained, capsys, tmp_path):
    """One class folder with two images, given as the folder itself and as the test folder in it."""
    shutil.copytree(trained.images / "test", tmp_path / "data/test")
    name = sorted(path.name for path in (tmp_path / "data/test").iterdir())[0]
    for path in sorted((tmp_path / "data/test").glob("*/*.png")):
        if path.parent.name != name or path.name not in ("0000.png", "0001.png"):
            path.unlink()
    kept = sorted((tmp_path / "data/test" / name).iterdir())
    run = trained.directory
    for folder in (tmp_path / "data", tmp_path / "data/test"):
        status, out, errors = compare(capsys, run, run, "--json", "--data", folder)
        assert (status, json.loads(out)["images"]) == (0, len(kept)) and "no test image of " in errors[0]
    status, _, errors = compare(capsys, run, run, "--data", folder, "--worse-by", 5)
    assert status == 3 and len(errors) == 1 and "which both know; give --data FOLDER" in errors[0]


def test_paths_in_the_home_folder(trained, capsys, tmp_path, monkeypatch):
    """As --data=~/x comes from a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(trained.directory)
    monkeypatch.chdir(trained.images)
    status, out, errors = compare(capsys, "~/run", "~/run", "--json", "--out", "~/page")
    assert (status, errors, json.loads(out)["images"]) == (0, [], 16)
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"compare.json", "compare.html"}


def test_a_broken_image_is_left_out_for_both(trained, capsys, tmp_path):
    shutil.copytree(trained.images / "test", tmp_path / "data")
    next((tmp_path / "data").glob("*/*.png")).write_bytes(b"")
    status, out, errors = compare(capsys, trained.directory, trained.directory, "--json", "--data", tmp_path / "data")
    found = json.loads(out)
    assert (status, found["images"], found["unread"]) == (0, 15, 1)
    assert errors == ["compare: 1 images can't be read and are left out"]


def test_images_of_a_built_in_data_set_have_their_own_size(trained):
    """Each model brings them to its size, as its own run has: none sees what another one's size has left of them."""
    given = config.load("digits", ["data.image_size=16", "run.precision=float32", "run.device=cpu"])
    found, of_run = labelled.of_config(given), load_data.images_of(given)
    assert found.images.shape[1:] == (8, 8, 3) and of_run.test_images.shape[1:] == (16, 16, 3)
    preprocessing = json.loads((trained.copy / "model.json").read_text())["preprocessing"]
    pixels, unread = inputs.reader_of(preprocessing | {"image_size": [16, 16]}).read(found.images)
    assert unread == {} and np.array_equal(pixels, of_run.test_images)


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["nowhere", "RUN"], 2, "compare: nowhere: there is no such directory; give the directory of a finished run"),
        (["RUN"], 2, "the following arguments are required: NEW"),
        (["RUN", "RUN", "--worse-by", "x"], 2, "argument --worse-by: x is not allowed; a number in 0..100"),
        (["RUN", "RUN", "--data", "nowhere"], 3, "nowhere can't be listed"),
        (["RUN", "RUN", "--data", "EMPTY"], 3, "EMPTY holds no images in folders of classes; give a folder that"),
        (["RUN", "COPY"], 2, "COPY has no config.toml, so it is unknown where its images are; give --data FOLDER"),
        (["RUN", "OTHER"], 2, "OTHER have no class of the same name, so there is nothing to compare; they know "),
        (["RUN", "MOVED"], 3, "doesn't exist; give a folder that holds train/ and test/"),
    ],
)
def test_mistakes_are_one_line(trained, capsys, tmp_path, words, status, line):
    (tmp_path / "empty").mkdir()
    run = trained.directory
    places = {"RUN": run, "COPY": trained.copy, "EMPTY": tmp_path / "empty"}
    if "OTHER" in words:
        places["OTHER"] = changed(run, tmp_path / "other", lambda saved: with_classes(saved, ["e", "f", "g", "h"]))
    if "MOVED" in words:
        moved = shutil.copytree(run, tmp_path / "moved")
        places["MOVED"] = places["RUN"] = moved
        text = (moved / "config.toml").read_text()
        (moved / "config.toml").write_text(text.replace(str(trained.images), str(tmp_path / "gone")))
    found, out, errors = compare(capsys, *(places.get(word, word) for word in words))
    for word, place in places.items():
        line = line.replace(word, str(place)) if word != "RUN" else line
    assert (found, out, len(errors)) == (status, "", 1) and line in errors[0]
