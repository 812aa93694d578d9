"""Draws the reliability diagram: whether predictions of 80 % confidence are right in 80 % of cases."""

from typing import TYPE_CHECKING

from cil_func.report.axes import BLUE, GREY, ORANGE, Results, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = (  # keys of the bins and of their error, label, colour, marker
    ("bins", "ece", "as trained", ORANGE, "s"),
    ("bins_calibrated", "ece_calibrated", "with the fitted temperature", BLUE, "o"),
)


def draw(results: Results) -> "Figure | None":
    """Draws the share of right predictions against their confidence, after the last phase; None without the numbers.

    results: the content of results.json. A point is a bin, and its area grows with the number of predictions in it.
    """
    found = results["phases"][-1].get("calibration")
    if not found:
        return None
    figure = new_figure(5.2, 5.2)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=GREY, linestyle=":")
    for key, error, label, colour, marker in _CURVES:
        bins = [bin_ for bin_ in found[key] or () if bin_[0]]
        if not bins:
            continue
        counts, sure, right = zip(*bins, strict=True)
        x, y = ([100 * value for value in values] for values in (sure, right))
        text = f"{label}: calibration error {100 * found[error]:.1f} %"
        axes.plot(x, y, color=colour, linewidth=1)
        sizes = [12 + 160 * count / sum(counts) for count in counts]
        axes.scatter(x, y, s=sizes, color=colour, marker=marker, label=text, alpha=0.8)
    axes.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(-3, 103), ylim=(-3, 103))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center")
    temperature = found["temperature"]
    told = "no images were kept for a temperature" if temperature is None else f"temperature {temperature:.2f}"
    axes.set_title(f"reliability after the last phase\n{told}")
    return figure
