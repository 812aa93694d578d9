"""The pictures of a finished run."""

import pytest

from cil_func.report import alignment, figures


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


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


def test_alignment_shows_shares_beside_the_fair_one_and_the_norms(make_run):
    log, results = make_run(3)
    shares, norms = alignment.draw(results, log).axes
    bars = [round(patch.get_height(), 6) for patch in shares.patches]
    assert bars == [90, 90, 51, 51]  # before, before, after, after: phases 1 and 2
    fair = [segment[0][1] for segment in shares.collections[0].get_segments()]
    assert fair == pytest.approx([40, 40])
    shown = curves(norms)
    assert shown["before aligning"] == [1, 1, 1, 1, 2, 2] and shown["after aligning"] == [1] * 6
    assert alignment.draw(results, []).axes[0].get_xlabel() == "phase"  # without norms in the log
    assert alignment.draw(make_run(3, aligned=False)[1], log) is None


def test_loss_takes_the_later_of_two_events_and_bridges_no_phases(make_run):
    log, results = make_run(2, epochs=2)
    again = next(dict(e, loss=0.5) for e in log if e["event"] == "epoch" and e["epoch"] == 1)
    axes = figures.loss(results, [*log, again]).axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[1.5, 0.5], [1.5, 1.0]]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[1, 2], [3, 4]]
    assert figures.loss(results, []) is None
