"""The figures and table.md of a finished run, from its files."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cil_func.errors import ConfigError
from cil_func.report import figures
from cil_func.report.__main__ import main
from cil_func.runs import event_log, files


def save(directory, log, results):
    """The files of a run, as training leaves them."""
    directory.mkdir(exist_ok=True)
    with event_log.EventLog(directory / "metrics.jsonl") as record:
        for event in log:
            record(event)
    files.write_json(directory / "results.json", results)
    return directory


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


@pytest.mark.parametrize(("num_phases", "aligned"), [(1, False), (20, True)])
def test_writes_pictures_of_a_sane_size_and_a_table(tmp_path, capsys, make_run, num_phases, aligned):
    directory = save(tmp_path / "run", *make_run(num_phases, aligned=aligned))
    assert main([str(directory)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = {"accuracy.png", "matrix.png", "loss.png", "table.md"}
    names |= {"alignment.png"} if aligned and num_phases > 1 else set()  # a single phase has nothing to align
    assert {path.name for path in written} == names
    assert {path.name for path in (directory / "report").iterdir()} == names
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
                assert all(400 <= side <= 2600 for side in picture.size)
                assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 20  # something is drawn
    assert (directory / "report/table.md").read_text().startswith("# ")


def test_accuracy_plots_percent_against_classes_seen(make_run):
    [axes] = figures.accuracy(make_run(3)[1]).axes
    assert curves(axes) == {
        "top-1": [90, 80, 70],
        "nearest class mean (NME)": [88, 88],
        "top-1 before aligning": [60, 60],
    }
    assert axes.get_xlabel() == "classes seen" and "(%)" in axes.get_ylabel()
    assert axes.get_title() == "wa, resnet20, digits\naverage incremental accuracy 80.0 %"


@pytest.mark.parametrize("first_gap", [0.0, 4.0, 8.0, 12.0, -4.0])
@pytest.mark.parametrize("seen", [range(10, 90, 10), (4, 6, 8, 12, 60, 62, 64, 90)])
def test_numbers_in_the_accuracy_figure_cover_no_marker_and_no_other_number(make_run, first_gap, seen):
    """Both curves close together: gaps of first_gap, first_gap + 0.5, ... percent; measured on the drawn picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _, results = make_run(8)
    for index, row in enumerate(results["phases"]):
        row["classes_seen"] = seen[index]
        row["nme_top1"] = row["top1"] + first_gap + index / 2
        row["top1_before_align"] = None if index == 0 else row["top1"] + 2 * first_gap - index / 2
    figure = figures.accuracy(results)
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [f"{row['top1']:.1f}" for row in results["phases"]]
    radius = 2.5 * figure.dpi / 72  # markers are 5 points wide
    for line in axes.get_lines():
        for x, y in axes.transData.transform(line.get_xydata()):
            assert not any(box.padded(radius).contains(x, y) for box in boxes)
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
    assert all(axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1 for box in boxes)


def test_matrix_writes_each_number_once_and_nothing_above_the_diagonal(make_run):
    axes = figures.matrix(make_run(3)[1]).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "95", (0, 1): "80", (1, 1): "95", (0, 2): "80", (1, 2): "80", (2, 2): "95"}


def test_alignment_shows_shares_beside_the_fair_one_and_the_norms(make_run):
    log, results = make_run(3)
    shares, norms = figures.alignment(results, log).axes
    bars = [round(patch.get_height(), 6) for patch in shares.patches]
    assert bars == [90, 90, 51, 51]  # before, before, after, after: phases 1 and 2
    fair = [segment[0][1] for segment in shares.collections[0].get_segments()]
    assert fair == pytest.approx([40, 40])
    shown = curves(norms)
    assert shown["before aligning"] == [1, 1, 1, 1, 2, 2] and shown["after aligning"] == [1] * 6
    assert figures.alignment(results, []).axes[0].get_xlabel() == "phase"  # without norms in the log
    assert figures.alignment(make_run(3, aligned=False)[1], log) is None


def test_loss_takes_the_later_of_two_events_and_bridges_no_phases(make_run):
    log, results = make_run(2, epochs=2)
    again = next(dict(e, loss=0.5) for e in log if e["event"] == "epoch" and e["epoch"] == 1)
    axes = figures.loss(results, [*log, again]).axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[1.5, 0.5], [1.5, 1.0]]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[1, 2], [3, 4]]
    assert figures.loss(results, []) is None


def test_nulls_in_the_log_and_the_matrix_are_gaps(tmp_path, make_run):
    log, results = make_run(2)
    for event in log:
        if event["event"] == "epoch":
            event["loss"] = None
    results["accuracy_matrix"][1][0] = None
    assert len(figures.write(save(tmp_path / "run", log, results))) == 5


def test_a_picture_that_no_longer_holds_is_removed_and_a_missing_log_is_no_error(tmp_path, make_run):
    directory = save(tmp_path / "run", *make_run(1))
    (directory / "metrics.jsonl").unlink()
    (directory / "report").mkdir()
    (directory / "report/loss.png").write_bytes(b"of an older run")
    assert "loss.png" not in {path.name for path in figures.write(directory)}
    assert not (directory / "report/loss.png").exists()


def test_the_command_answers_2_and_one_line_for_a_folder_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "cil_func.report", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no readable results.json"), ("{", "broken"), ('{"phases": []}', "holds no phases")],
)
def test_a_folder_without_results_is_one_line_and_exit_2(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        figures.write(tmp_path)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path) in error and message in error
    assert not (tmp_path / "report").exists()


def test_what_can_not_be_drawn_is_named_and_the_rest_is_made(tmp_path, make_run, monkeypatch, capsys):
    directory = save(tmp_path / "run", *make_run())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    problems = []
    assert [path.name for path in figures.write(directory, warn=problems.append)] == ["table.md"]
    [problem] = problems
    assert "accuracy.png, matrix.png, alignment.png, loss.png can't be drawn (ModuleNotFoundError: " in problem
    with pytest.raises(ImportError):
        figures.write(directory)
    assert main([str(directory)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{directory / 'report/table.md'}\n" and err == f"error: {problem}\n"


def test_a_report_that_can_not_be_written_is_one_line(tmp_path, make_run, capsys):
    directory = save(tmp_path / "run", *make_run())
    (directory / "report").write_text("a file")
    assert main([str(directory)]) == 74
    assert capsys.readouterr().err.startswith(f"error: {directory / 'report'}: File exists")


def test_a_run_that_is_not_finished_is_drawn_and_that_is_said(tmp_path, make_run, capsys):
    directory = save(tmp_path / "run", *make_run())
    files.write_json(directory / "status.json", {"state": "running", "pid": 1, "host": "there", "updated": 0.0})
    assert main([str(directory)]) == 0
    assert 'the run is not finished: status.json says "running", written by process 1' in capsys.readouterr().err
