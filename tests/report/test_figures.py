"""The pictures of a finished run."""

import pytest

from cil_func.report import alignment, by_class, curves, figures, reliability
from cil_func.report.axes import svg


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_accuracy_plots_percent_against_classes_seen(make_run):
    [axes] = figures.accuracy(make_run(3)[1]).axes
    assert lines(axes) == {
        "top-1": [90, 80, 70],
        "nearest class mean (NME)": [88, 88],
        "top-1 before aligning": [60, 60],
    }
    assert axes.get_xlabel() == "classes seen" and "(%)" in axes.get_ylabel()
    assert axes.get_title() == "wa, resnet20, digits\naverage incremental accuracy 80.0 %"


@pytest.mark.parametrize("first_gap", [0.0, 4.0, 8.0, 12.0, -4.0])
@pytest.mark.parametrize("seen", [range(10, 90, 10), (4, 6, 8, 12, 60, 62, 64, 90)])
def test_numbers_in_the_accuracy_figure_cover_no_marker_and_no_other_number(make_run, first_gap, seen):
    """The curves are close together: gaps of first_gap, first_gap + 0.5, ... percent. Measured on the drawn picture."""
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


def test_shares_stand_beside_the_fair_one(make_run):
    axes = alignment.shares(make_run(3)[1]).axes[0]
    bars = [round(patch.get_height(), 6) for patch in axes.patches]
    assert bars == [90, 90, 51, 51]  # before, before, after, after: phases 1 and 2
    fair = [segment[0][1] for segment in axes.collections[0].get_segments()]
    assert fair == pytest.approx([40, 40])
    unaligned = alignment.shares(make_run(3, aligned=False)[1]).axes[0]
    assert [round(patch.get_height(), 6) for patch in unaligned.patches] == [51, 51]
    assert alignment.shares(make_run(1)[1]) is None


def test_norms_of_the_last_phase_before_and_after_aligning(make_run):
    log, results = make_run(3)
    shown = lines(alignment.norms(results, log).axes[0])
    assert shown["before aligning"] == [1, 1, 1, 1, 2, 2] and shown["after aligning"] == [1] * 6
    log, results = make_run(3, aligned=False)
    assert lines(alignment.norms(results, log).axes[0])["norm"] == [1] * 6
    assert alignment.norms(results, []) is None


def test_loss_takes_the_later_of_two_events_and_bridges_no_phases(make_run):
    log, results = make_run(2, epochs=2)
    again = next(dict(e, loss=0.5) for e in log if e["event"] == "epoch" and e["epoch"] == 1)
    loss, accuracy = curves.draw(results, [*log, again], curves.LOSS).axes
    assert [list(line.get_ydata()) for line in loss.get_lines()] == [[1.5, 0.5], [1.5, 1.0]]
    assert [list(line.get_xdata()) for line in loss.get_lines()] == [[1, 2], [3, 4]]
    assert [list(line.get_ydata()) for line in accuracy.get_lines()] == [[45, 45], [45, 45]]
    assert curves.draw(results, [], curves.LOSS) is None
    assert curves.draw(results, log, curves.STEPS) is None  # events of an older version have no norms


def test_a_later_stage_follows_its_phase_and_covers_nothing(make_run):
    log, _ = make_run(2, epochs=2)
    stage = {"event": "epoch", "phase": 0, "stage": "bias", "epoch": 0, "loss": 7.0}
    epochs = curves.epochs_of([*log, stage])
    assert [event["loss"] for event in epochs] == [1.5, 1.0, 7.0, 1.5, 1.0]


def test_confusion_is_in_percent_of_each_class_with_a_line_at_each_border(make_run):
    log, results = make_run(2)
    axes = by_class.confusion(results, log).axes[0]
    assert axes.images[0].get_array().tolist() == [[80, 0, 20, 0], [0, 80, 20, 0], [0, 0, 100, 0], [0, 0, 10, 90]]
    assert {tuple(line.get_ydata()) for line in axes.get_lines()} == {(1.5, 1.5), (0, 1)}  # the row's, the column's
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c0", "c1", "c2", "c3"]
    assert by_class.confusion(results, []) is None


def test_a_class_is_named_with_what_it_was_mostly_taken_for(make_run):
    log, results = make_run(2)
    assert by_class.class_rows(results, log) == [
        [0, "c0", 0, 95.0, 80.0, -15.0, "c2 (20 %)"],
        [1, "c1", 0, 95.0, 80.0, -15.0, "c2 (20 %)"],
        [2, "c2", 1, 100.0, 100.0, 0.0, ""],
        [3, "c3", 1, 90.0, 90.0, 0.0, "c2 (10 %)"],
    ]
    shown = lines(by_class.accuracy(results, log).axes[0])
    assert shown["when it was learned"] == [95, 95, 100, 90] and shown["after the last phase"] == [80, 80, 100, 90]
    assert by_class.accuracy(results, []) is None


def test_forgetting_is_the_best_earlier_accuracy_minus_the_last(make_run):
    _, results = make_run(3)
    results["accuracy_matrix"] = [[75.0], [80.0, 60.0], [50.0, 55.0, 90.0]]
    curves_of_phases, bars = by_class.forgetting(results).axes
    assert [list(line.get_ydata()) for line in curves_of_phases.get_lines()] == [[75, 80, 50], [60, 55], [90]]
    assert [patch.get_height() for patch in bars.patches] == [30, 5]
    assert by_class.forgetting(make_run(1)[1]) is None


def test_a_dollar_in_a_class_name_begins_no_formula(make_run):
    log, results = make_run(2)
    results["class_names"] = ["a$b$c", "a\nb", "x" * 40, "$"]
    drawn = svg(by_class.confusion(results, log), "confusion").decode()
    assert "a$b$c" in drawn and "a\\nb" in drawn and "x" * 13 + "..." in drawn


def test_a_point_of_the_reliability_diagram_is_a_bin(make_run):
    """Bins without a prediction are no points; without held-out images there is one curve."""
    _, results = make_run(2)
    axes = reliability.draw(results).axes[0]
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[80, 50], [95, 70]], [[70, 65]]]
    results["phases"][-1]["calibration"] |= {"temperature": None, "ece_calibrated": None, "bins_calibrated": None}
    figure = reliability.draw(results)
    assert len(figure.axes[0].collections) == 1 and "no images were kept" in figure.axes[0].get_title()
    del results["phases"][-1]["calibration"]
    assert reliability.draw(results) is None
