"""The functions that all benchmarks share."""

import importlib
import json
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from benchmarks import measure, step
from cil_func.data.reading import folders


def test_paired_calls_in_turn_and_changes_who_goes_first():
    calls = []
    first, second = measure.paired(lambda: calls.append("a"), lambda: calls.append("b"), repeats=4)
    assert len(first) == len(second) == 4 and min(first + second) >= 0
    pairs = ["".join(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert pairs == ["ba", "ab", "ba", "ab", "ba"]  # the first pair warms up and is not counted


def test_ratio_is_the_median_of_the_pairs_own_ratios():
    assert measure.ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0  # 2, 3, 4; the ratio of medians would be 4


def test_written_file_holds_name_figures_and_conditions(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    figures, conditions = {"speedup_x": 1.5, "graphs": 2}, {"device": "cpu", "torch": "2"}
    path = measure.write("thing", figures, conditions)
    assert path == tmp_path / "thing-cpu.json"
    assert json.loads(path.read_text()) == {"name": "thing", "figures": figures, "conditions": conditions}
    elsewhere = tmp_path / "new" / "x.json"
    assert measure.write("thing", {}, {"device": "cuda"}, elsewhere) == elsewhere and elsewhere.is_file()


@pytest.mark.parametrize(
    ("value", "error"), [(None, TypeError), (True, TypeError), ("1", TypeError), (np.nan, ValueError)]
)
def test_figures_are_finite_numbers(tmp_path, value, error):
    with pytest.raises(error, match="odd"):
        measure.write("thing", {"odd": value}, {"device": "cpu"}, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_conditions_say_what_a_number_depends_on():
    found = measure.conditions("cpu")
    machine = {"device", "device_name", "processor", "cores", "threads", "load_average"}
    assert found.keys() == machine | {"torch", "python", "commit", "date"}
    assert found["device"] == "cpu" and found["device_name"] == found["processor"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert measure.conditions("cpu", commit="abc")["commit"] == "abc"


def test_commit_is_unknown_without_git(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")  # git is asked in the folder above
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert measure.head() == "unknown"


def test_commit_is_dirty_where_code_differs_and_not_where_a_table_does(monkeypatch, tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], check=True, cwd=tmp_path, capture_output=True)

    monkeypatch.setattr(measure, "RESULTS", tmp_path / "benchmarks/results")
    for name in ("benchmarks/results/a.json", "package/a.py", "presets/a.toml", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    clean = measure.head()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "README.md").write_text("2")
    (tmp_path / "benchmarks/results/a.json").write_text("2")
    assert measure.head() == clean
    for name in ("package/a.py", "presets/a.toml"):
        (tmp_path / name).write_text("2")
        assert measure.head() == f"{clean}-dirty"
        (tmp_path / name).write_text("1")


def test_table_is_aligned(capsys):
    measure.table([("name", "seconds"), ("long name", 12.25), ("x", 0.00123456), ("n", 3), ("none", None)])
    assert capsys.readouterr().out.splitlines() == [
        "name        seconds",
        "long name     12.25",
        "x          0.001235",
        "n                 3",
        "none              -",
    ]


def test_generated_images_are_a_folder_that_the_data_room_reads(tmp_path):
    measure.write_images(tmp_path / "images", classes=3, train=4, test=2, size=8)
    train_images, train_targets, test_images, test_targets, names, *_ = folders.read(str(tmp_path / "images"))
    assert train_images.shape == (12, 8, 8, 3) and test_images.shape == (6, 8, 8, 3) and len(names) == 3
    assert np.bincount(train_targets).tolist() == [4] * 3 and np.bincount(test_targets).tolist() == [2] * 3
    assert len(np.unique(train_images, axis=0)) == 12  # no image comes twice
    measure.write_images(tmp_path / "again", classes=3, train=4, test=2, size=8)
    file = "train/class002/0003.png"
    same = (np.asarray(Image.open(tmp_path / name / file)) for name in ("images", "again"))
    assert np.array_equal(*same)


@pytest.mark.parametrize(
    "flags", ["recompute --quick", "backbones --image-size 32", "step --set run.compile=false", "seeds --eager",
              "scaling --backbone resnet20", "compile --backend eager", "checkpoint --backbone resnet20",
              "reliability --only kill", "reliability --full", "run --workers 7 --data x",
              "run --set run.seed=1 --data x", "run --parts warm --data x", "streaming FOLDER --quick",
              "months_later --images FOLDER", "all_methods digits --set optim.epochs=2"],
)  # fmt: skip
def test_a_record_of_other_settings_replaces_none(flags, capsys, monkeypatch):
    monkeypatch.setattr(measure, "conditions", lambda *given, **more: pytest.fail("it begins to measure"))
    name, *words = flags.split()
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words)
    assert ended.value.code == 2
    flag = next(word for word in words if word.startswith("--"))
    assert f"error: {flag} measures something else" in (said := capsys.readouterr().err) and "--json PATH" in said


def test_a_gpu_that_a_benchmark_passes_over_is_told(capsys, monkeypatch):
    monkeypatch.setattr("cil_func.training.gpus.passed_over", lambda: "no GPU is used")
    monkeypatch.setattr("cil_func.training.gpus.fault", lambda: "none fits")
    assert measure.device() == "cpu" and capsys.readouterr().err == "warning: no GPU is used\n"


def test_generated_images_replace_no_record_of_real_ones(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.run").parse([])
    assert "without --data images are generated" in capsys.readouterr().err


def test_a_child_of_a_benchmark_gets_its_parents_flags():
    for name in ("seeds", "compile", "scaling"):
        benchmark = importlib.import_module(f"benchmarks.{name}")
        assert benchmark.parse(["--child", "FOLDER", "--set", "run.seed=1"]).set == ["run.seed=1"]


def test_one_side_of_a_comparison_is_not_changed_alone(capsys):
    with pytest.raises(SystemExit):
        step.main(["--set", "optim.batch_size=256", "--json", "x.json"])
    assert "use --batch-size" in capsys.readouterr().err
