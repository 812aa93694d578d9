"""The command predict: its lines, its JSON, its mistakes and their exit status."""

import json
import os
import sys

import pytest

import cil_func
from cil_func.__main__ import main


def predict(capsys, *words):
    """(exit status, lines of stdout, lines of stderr) of the command."""
    status = main(["predict", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def test_a_folder_is_searched_and_each_image_has_its_line(trained, capsys):
    folder = trained.images / "test"
    status, lines, errors = predict(capsys, trained.copy, folder, "--top", 2)
    files = sorted(folder.glob("*/*.png"))
    predictor = cil_func.load(trained.copy)
    assert (status, errors, len(lines)) == (0, [], len(files))
    for line, file, row in zip(lines, files, predictor(files), strict=True):
        path, best, percent, second, _ = line.split("\t")
        order = row.argsort(descending=True)
        assert (path, best, second) == (str(file), *(predictor.class_names[k] for k in order[:2]))
        assert percent == f"{100 * row.max():.1f}%"


def test_json_has_one_object_a_line(trained, capsys):
    file = next((trained.images / "test").glob("*/*.png"))
    status, (line,), _ = predict(capsys, trained.copy, file, "--json", "--top", 4, "--flips")
    found, predictor = json.loads(line), cil_func.load(trained.copy)
    row = predictor([file], flips=True)[0]
    assert status == 0 and found["path"] == str(file)
    assert (found["class"], found["probability"]) == (predictor.class_names[row.argmax()], row.max().item())
    assert {each["class"]: each["probability"] for each in found["top"]} == dict(
        zip(predictor.class_names, row.tolist(), strict=True)
    )


def test_what_cannot_be_read_is_named_and_the_others_go_on(trained, capsys, tmp_path):
    good = next((trained.images / "test").glob("*/*.png"))
    (tmp_path / "empty.png").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/notes.txt").write_text("text")
    words = tmp_path / "nothing.png", tmp_path / "docs", tmp_path / "empty.png", good
    status, lines, errors = predict(capsys, trained.copy, *words)
    assert status == 3 and [line.split("\t")[0] for line in lines] == [str(good)]
    assert errors == [
        f"predict: {words[0]}: there is no such file or folder",
        f"predict: {words[1]}: there is no image in it, only 1 .txt",
        f"predict: {words[2]}: the file is empty",
    ]
    status, lines, _ = predict(capsys, trained.copy, tmp_path / "empty.png", good, "--json")
    assert status == 3 and json.loads(lines[0]) == {"path": str(words[2]), "error": "the file is empty"}


def test_without_a_single_image_each_path_is_named(trained, capsys, tmp_path):
    words = [str(tmp_path / f"n{number}") for number in range(6)]
    reason = "there is no such file or folder"
    status, lines, errors = predict(capsys, trained.copy, *words)
    assert (status, lines, errors) == (3, [], [f"predict: {word}: {reason}" for word in words])
    status, lines, again = predict(capsys, trained.copy, *words, "--json")
    assert (status, again) == (3, errors)
    assert [json.loads(line) for line in lines] == [{"path": word, "error": reason} for word in words]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["RUN"], 2, "the following arguments are required: PATH; --help lists the flags"),
        (["RUN", "PHOTO", "--top", "5"], 2, "--top 5: the model knows 4 classes; give 1 to 4"),
        (["RUN", "PHOTO", "--top", "0"], 2, "--top 0: the model knows 4 classes; give 1 to 4"),
        (["RUN", "PHOTO", "--top", "x"], 2, "argument --top: invalid int value: 'x'; --help lists the flags"),
        (["NO/RUN", "PHOTO"], 2, "NO/RUN: there is no such directory; give the directory of a finished run"),
        (["RUN", "NO.png"], 3, "NO.png: there is no such file or folder"),
        (["RUN", "EMPTY"], 3, "EMPTY: there is no image in it"),
    ],
)
def test_mistakes_are_one_line(trained, capsys, tmp_path, words, status, message):
    (tmp_path / "empty").mkdir()
    photo = next((trained.images / "test").glob("*/*.png"))
    named = {"RUN": str(trained.copy), "PHOTO": str(photo), "EMPTY": str(tmp_path / "empty")}
    found, lines, errors = predict(capsys, *(named.get(word, word) for word in words))
    assert (found, lines) == (status, [])
    assert errors == ["predict: " + message.replace("EMPTY", named["EMPTY"])]


def test_the_class_is_unchanged_by_what_stands_in_a_path(trained, capsys, tmp_path):
    photo = next((trained.images / "test").glob("*/*.png"))
    odd = tmp_path / "a\nb.png"
    os.link(photo, odd)
    _, (plain, escaped), _ = predict(capsys, trained.copy, photo, odd)
    assert plain.split("\t")[1:] == escaped.split("\t")[1:] and escaped.split("\t")[0].endswith("a\\nb.png")


def test_a_reader_that_goes_away_is_no_failure(trained, monkeypatch, capsys):
    """As with `| head -1`, which closes the pipe."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["predict", str(trained.copy), str(trained.images / "test")]) == 0
    assert capsys.readouterr().err == ""
