"""The report/ folder of a run, and the command that draws it again."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cil_func.errors import ConfigError
from cil_func.report.__main__ import main
from cil_func.runs import event_log, files, report_files


def save(directory, log, results):
    """Writes the files of a run, as training leaves them. Returns the directory."""
    directory.mkdir(exist_ok=True)
    with event_log.EventLog(directory / "metrics.jsonl") as record:
        for event in log:
            record(event)
    files.write_json(directory / "results.json", results)
    return directory


ALWAYS = {"report.html", "table.md", "accuracy.svg", "reliability.svg", "matrix.svg", "loss.svg", "rates.svg",
          "norms.svg", "confusion.svg", "classes.svg"}  # fmt: skip


@pytest.mark.parametrize(("num_phases", "aligned"), [(1, False), (3, True)])
def test_writes_pictures_that_are_xml_a_table_and_a_page(tmp_path, capsys, make_run, num_phases, aligned):
    directory = save(tmp_path / "run", *make_run(num_phases, aligned=aligned))
    assert main([str(directory)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = ALWAYS | (
        {"shares.svg", "forgetting.svg"} if num_phases > 1 else set()
    )  # a single phase has no old classes
    assert {path.name for path in written} == names
    assert {path.name for path in (directory / "report").iterdir()} == names
    for path in written:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert (directory / "report/table.md").read_text().startswith("# ")


def test_nulls_in_the_log_and_the_matrix_are_gaps(tmp_path, make_run):
    log, results = make_run(2)
    for event in log:
        if event["event"] == "epoch":
            event["loss"] = None
        event.pop("class_top1", None)
    results["accuracy_matrix"][1][0] = None
    names = {path.name for path in report_files.write_report(save(tmp_path / "run", log, results))}
    assert names == ALWAYS - {"classes.svg"} | {"shares.svg", "forgetting.svg"}


def test_an_outdated_picture_is_deleted_and_a_missing_log_is_no_error(tmp_path, make_run):
    directory = save(tmp_path / "run", *make_run(1))
    (directory / "metrics.jsonl").unlink()
    (directory / "report").mkdir()
    for name in ("loss.svg", "accuracy.png"):
        (directory / "report" / name).write_bytes(b"of an older run")
    assert "loss.svg" not in {path.name for path in report_files.write_report(directory)}
    assert not (directory / "report/loss.svg").exists() and not (directory / "report/accuracy.png").exists()


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
        report_files.write_report(tmp_path)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path) in error and message in error
    assert not (tmp_path / "report").exists()


def test_files_that_cannot_be_drawn_are_named_and_the_others_are_written(tmp_path, make_run, monkeypatch, capsys):
    directory = save(tmp_path / "run", *make_run())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    problems = []
    written = report_files.write_report(directory, warn=problems.append)
    assert [path.name for path in written] == ["table.md", "report.html"]  # the page has its tables
    [problem] = problems
    assert "report: accuracy.svg, matrix.svg, " in problem and " can't be drawn (ModuleNotFoundError: " in problem
    with pytest.raises(ImportError):
        report_files.write_report(directory)
    assert main([str(directory)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(path) for path in written] and err == f"error: {problem}\n"


def test_a_report_that_can_not_be_written_is_one_line(tmp_path, make_run, capsys):
    directory = save(tmp_path / "run", *make_run())
    (directory / "report").write_text("a file")
    assert main([str(directory)]) == 74
    assert capsys.readouterr().err.startswith(f"error: {directory / 'report'}: File exists")


def test_a_folder_in_the_place_of_an_outdated_picture_is_one_line(tmp_path, make_run, capsys):
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run/results.json", make_run()[1])
    (tmp_path / "report/accuracy.png").mkdir(parents=True)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 74
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {tmp_path / 'report/accuracy.png'}: ") and err.count("\n") == 1


def test_a_run_that_is_not_finished_is_drawn_and_that_is_said(tmp_path, make_run, capsys):
    directory = save(tmp_path / "run", *make_run())
    files.write_json(directory / "status.json", {"state": "running", "pid": 1, "host": "there", "updated": 0.0})
    assert main([str(directory)]) == 0
    assert 'the run is not finished: status.json says "running", written by process 1' in capsys.readouterr().err
