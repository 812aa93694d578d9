"""The report of several runs: how they are grouped, and their table in each form."""

import csv
import io

import pytest

from cil_func.report import page, several
from cil_func.report.__main__ import main
from cil_func.report.material import Material
from cil_func.runs import files


def run(make_run, method="wa", average=80.0, *, phases=3, seed=0, epochs=40):
    _, results = make_run(phases)
    results |= {"method": method, "average_incremental_accuracy": average, "seed": seed}
    results["config"] = {"run": {"seed": seed}, "optim": {"epochs": epochs}, "data": {"name": "digits"}}
    for row in results["phases"]:
        row["top1"] = average
    return Material(f"runs/{method}-{seed}", results, [])


def test_mean_and_sample_deviation_by_hand(make_run):
    runs = [run(make_run, average=value, seed=seed) for seed, value in enumerate((80.0, 82.0, 87.0))]
    [group] = several.groups_of(runs)
    # mean 83; squares 9 + 1 + 16 = 26; 26 / 2 = 13, whose root is 3.61
    assert several.rows_of([group])[0] == ["wa", "3", "83.0 ± 3.6", "70.0 ± 0.0", "12.5 ± 0.0"]
    [line] = several.curves([group]).axes[0].get_lines()
    assert list(line.get_xdata()) == [2, 4, 6] and list(line.get_ydata()) == pytest.approx([83, 83, 83])
    assert line.get_label() == "wa, 3 runs"


def test_runs_of_one_method_with_another_recipe_are_a_group_of_their_own(make_run):
    runs = [run(make_run), run(make_run, seed=1), run(make_run, epochs=20), run(make_run, "replay")]
    groups = several.groups_of(runs)
    names = [(group.name, len(group.runs)) for group in groups]
    assert names == [("wa (optim.epochs = 40)", 2), ("wa (optim.epochs = 20)", 1), ("replay", 1)]


def test_runs_on_other_images_are_no_repetitions(make_run):
    """The path of the images says nothing; the fingerprint and the names of the classes do, in whatever order."""
    runs = [run(make_run, seed=seed) for seed in range(5)]
    prints = "a" * 64, "a" * 64, "b" * 64, "b" * 64, None
    for number, (each, known) in enumerate(zip(runs, prints, strict=True)):
        each.results["config"]["data"]["path"] = f"place{number}"
        each.results["data_fingerprint"] = known
    runs[1].results["class_names"] = runs[1].results["class_names"][::-1]
    runs[3].results["class_names"] = ["x", *runs[3].results["class_names"][1:]]
    groups = several.groups_of(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("wa (images = aaaaaaaa, classes = c0, c1, c2 and 3 more)", 2),
        ("wa (images = bbbbbbbb, classes = c0, c1, c2 and 3 more)", 1),
        ("wa (images = bbbbbbbb, classes = c1, c2, c3 and 3 more)", 1),
        ("wa (images = unknown, classes = c0, c1, c2 and 3 more)", 1),
    ]
    assert several.markdown(groups).splitlines()[-2:] == ["", several.caution(groups)]
    assert several.caution(groups).startswith("Careful: these runs differ in data")
    assert several.caution(several.groups_of([runs[0], runs[1], runs[4]])) == ""  # what is unknown may be the same


def test_runs_on_validation_images_say_so(make_run):
    runs = [run(make_run), run(make_run, seed=1)]
    runs[1].results["config"]["data"]["tests_on"] = "validation"
    groups = several.groups_of(runs)
    assert len(groups) == 2 and "some on validation images" in several.caution(groups)
    assert several.caution(several.groups_of(runs[1:])) == page.ON_VALIDATION


def test_runs_on_other_validation_images_are_warned_of(make_run):
    """Of one share and the same test images, but of other training images; or of another share."""
    runs = [run(make_run), run(make_run, "replay")]
    for each in runs:
        each.results["config"]["data"] |= {"tests_on": "validation", "validation": 0.2, "storage": "resident"}
        each.results.update(tests_fingerprint="t", data_fingerprint="a")
    assert several.caution(several.groups_of(runs)) == page.ON_VALIDATION
    runs[1].results["data_fingerprint"] = "b"
    assert several.caution(several.groups_of(runs)).startswith("Careful: these runs differ in data")
    runs[1].results["data_fingerprint"] = "a"
    runs[1].results["config"]["data"]["validation"] = 0.3
    assert several.caution(several.groups_of(runs)).startswith("Careful: these runs differ in data")


def test_extensions_of_different_runs_are_no_repetitions(make_run):
    runs = [run(make_run, seed=seed) for seed in range(3)]
    for each, parent in zip(runs, ("A", "A", "B"), strict=True):
        each.results["config"]["run"]["extends"] = parent
    groups = several.groups_of(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("wa (run.extends = A)", 2), ("wa (run.extends = B)", 1)
    ]  # fmt: skip


def test_runs_by_two_versions_of_an_own_file_are_no_repetitions(make_run):
    runs = [run(make_run, seed=seed) for seed in range(3)]
    for each, digest in zip(runs, ("a" * 64, "a" * 64, "b" * 64), strict=True):
        each.results["own_code"] = {"own.py": digest}
    groups = several.groups_of(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("wa (own files = aaaaaaaa)", 2), ("wa (own files = bbbbbbbb)", 1)
    ]  # fmt: skip


def test_the_table_in_each_form(make_run):
    runs = [run(make_run, average=80.0), run(make_run, average=82.0, seed=1), run(make_run, "a_b|c", 50.0)]
    runs[2].results["forgetting"] = None
    groups = several.groups_of(runs)
    assert several.markdown(groups).splitlines()[2:] == [
        "| wa | 2 | 81.0 ± 1.4 | 70.0 ± 0.0 | 12.5 ± 0.0 |",
        r"| a_b\|c | 1 | 50.0 | 70.0 | - |",
    ]
    first, second = csv.DictReader(io.StringIO(several.as_csv(groups)))
    assert float(first["average_incremental_accuracy_deviation"]) == pytest.approx(2**0.5)  # (1 + 1) / 1
    assert (second["method"], second["runs"], second["forgetting_mean"]) == ("a_b|c", "1", "")
    latex = several.latex(groups)
    assert r"wa & 2 & 81.0 $\pm$ 1.4 & 70.0 $\pm$ 0.0 & 12.5 $\pm$ 0.0 \\" in latex
    assert r"a\_b|c & 1 & 50.0 & 70.0 & - \\" in latex and r"average, \% &" in latex


def test_runs_of_other_phases_are_warned_of(make_run):
    pages = [several.make([run(make_run), run(make_run, "replay", phases=phases)])["report.html"] for phases in (3, 2)]
    assert [b"be compared" in content for content in pages] == [False, True]


def test_the_command_writes_or_prints_the_comparison(tmp_path, make_run, capsys):
    paths = []
    for name in ("wa", "replay"):
        paths.append(tmp_path / name)
        paths[-1].mkdir()
        files.write_json(paths[-1] / "results.json", dict(run(make_run, name).results))
    assert main([*map(str, paths)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2] == "| wa | 1 | 80.0 | 70.0 | 12.5 |" and "--out DIR" in printed.err
    assert main([*map(str, paths), "--out", str(tmp_path / "both")]) == 0
    capsys.readouterr()
    (tmp_path / "link").symlink_to(paths[0])
    assert main([str(paths[0]), f"{paths[0]}/", str(tmp_path / "link")]) == 0  # the same run counts once
    assert capsys.readouterr().out.splitlines()[2] == "| wa | 1 | 80.0 | 70.0 | 12.5 |"
    written = {path.name for path in (tmp_path / "both").iterdir()}
    assert written == {"report.html", "table.md", "table.csv", "table.tex", "accuracy.svg"}
    capsys.readouterr()
    assert main([str(paths[0]), str(tmp_path / "nowhere"), "--out", str(tmp_path / "both")]) == 2
    assert "no readable results.json" in capsys.readouterr().err


def test_keys_that_came_later_or_measure_nothing_make_no_group(tmp_path, make_run, capsys):
    for name, more in (("old", {}), ("new", {"subset": ""}), ("other", {"subset": "names.txt"})):
        results = run(make_run).results
        results["config"]["data"] |= more
        results["config"]["memory"] = {"keep": name == "old"}
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "results.json", dict(results))
    assert main([str(tmp_path / name) for name in ("old", "new", "other")]) == 0
    rows = [row.rpartition(" | 80.0")[0] for row in capsys.readouterr().out.splitlines()[2:4]]
    assert rows == ["| wa (data.subset = ) | 2", "| wa (data.subset = names.txt) | 1"]


def test_names_are_drawn_as_they_are_and_long_lists_of_them_leave_room_for_the_curves(make_run):
    from cil_func.report.axes import svg

    names = ("_mine", "$5_bill", "$x$", *(f"a_long_name_of_a_method_with_options_{number}" for number in range(27)))
    figure = several.curves(several.groups_of([run(make_run, name) for name in names]))
    drawn = svg(figure, "curves").decode()
    assert all(f">{name}</text>" in drawn or f"> {name}</text>" in drawn for name in names)
    curves, legend = figure.axes[0].get_position(), figure.legends[0].get_window_extent()
    assert curves.height * figure.get_figheight() > 3.5  # inches
    assert legend.transformed(figure.transFigure.inverted()).y1 < curves.y0


def test_a_single_run_s_pictures_have_its_name_as_it_is(make_run):
    from cil_func.report import contents

    _, results = make_run(2)
    made = contents.make(Material("runs/a", results | {"method": "_my$5_$"}, []))
    assert b"_my$5_$, resnet20, digits" in made["accuracy.svg"] and b"_my$5_$, resnet20, digits" in made["matrix.svg"]


def test_results_that_lack_what_is_compared_are_one_line(tmp_path, make_run, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        results = dict(run(make_run).results)
        results["phases"] = [{key: row[key] for key in row if key != "classes_seen"} for row in results["phases"]]
        files.write_json(tmp_path / name / "results.json", results)
    flags = [str(tmp_path / "a"), str(tmp_path / "b")]
    for more in ([], ["--out", str(tmp_path / "out")]):
        assert main([*flags, *more]) == 2
        assert capsys.readouterr().err.endswith("a/results.json: a phase has no 'classes_seen'\n")
