"""Does herding cost O(count * rows), and less than the loop of the toolboxes? `python -m benchmarks.herding`.

Measures the seconds of `herding.herd` on features of 64 dimensions: for several numbers of rows at 20 exemplars, and
for several numbers of exemplars at 500 rows (the images of a class of CIFAR-100). Each figure is the least of several
calls, with all sizes in turn, since a busy machine can only add to a time. The exponents are the slopes of log seconds
over log size at the three largest sizes. speedup_herding: the conventional greedy loop in numpy over this package's
function, at 500 rows and 20 exemplars, in turn, both on float32 features. Before, both must choose the same rows in
float64.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks import conventional, measure
from cil_func import herding, rng

DIM = 64
ROWS, COUNT = 500, 20  # CIFAR-100: images of a class, exemplars of a class once all 100 are seen
MANY_ROWS = (125, 250, 500, 1000, 2000, 4000)
COUNTS = (5, 10, 20, 40, 80)


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"dim": DIM, "repeats": options.repeats}
    taken = seconds([(rows, COUNT) for rows in MANY_ROWS] + [(ROWS, count) for count in COUNTS], options.repeats)
    by_rows = {rows: taken[rows, COUNT] for rows in MANY_ROWS}
    by_count = {count: taken[ROWS, count] for count in COUNTS}
    theirs, ours = against_conventional(repeats=options.repeats)
    figures = {f"seconds_rows_{rows}": value for rows, value in by_rows.items()}
    figures |= {f"seconds_count_{count}": value for count, value in by_count.items()}
    figures["exponent_rows"] = exponent(list(by_rows), list(by_rows.values()))
    figures["exponent_count"] = exponent(list(by_count), list(by_count.values()))
    figures["seconds_conventional"] = statistics.median(theirs)
    figures["speedup_herding"] = measure.ratio(theirs, ours)
    measure.table([("figure", "value"), *figures.items()])
    print(measure.write("herding", figures, conditions, options.json))
    return 0


def seconds(sizes: Sequence[tuple[int, int]], repeats: int) -> dict[tuple[int, int], float]:
    """Measures `herding.herd` at each (rows, count) of `sizes`. Returns {(rows, count): the least seconds of a call}.

    repeats: calls of each, all sizes in turn, after one that doesn't count.
    """
    least = {}
    for repeat in range(-1, repeats):
        for rows, count in sizes:
            features, clock = draw(rows), time.perf_counter()
            herding.herd(features, count)
            taken = time.perf_counter() - clock
            if repeat >= 0:  # the first round warms up
                least[rows, count] = min(taken, least.get((rows, count), taken))
    return least


def against_conventional(*, repeats: int) -> tuple[list[float], list[float]]:
    """Returns (seconds of each call of the conventional loop, seconds of each of `herding.herd`), called in turn.

    repeats: calls of each. Raises RuntimeError if they choose different rows.
    """
    features = torch.nn.functional.normalize(draw(ROWS))
    picks = conventional.herd(features.double().numpy(), COUNT)
    if herding.herd(features.double(), COUNT, normalize=False).tolist() != picks:
        raise RuntimeError("herding: the conventional loop picks other rows; one of the two is wrong")
    array = features.numpy()
    return measure.paired(
        lambda: conventional.herd(array, COUNT), lambda: herding.herd(features, COUNT), repeats=repeats
    )


def draw(rows: int) -> torch.Tensor:
    """Returns random features (rows, DIM) float32, positive as after a ReLU."""
    return torch.randn(rows, DIM, generator=rng.generator(rows)).abs()


def exponent(sizes: Sequence[int], taken: Sequence[float]) -> float:
    """Returns the slope of log seconds over log size at the three largest sizes.

    At smaller sizes the constant cost of a call would count.
    """
    slope, _ = np.polyfit(np.log(sizes[-3:]), np.log(taken[-3:]), 1)
    return float(slope)


if __name__ == "__main__":
    sys.exit(main())
