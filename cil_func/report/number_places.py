"""Finds heights for the numbers in the accuracy figure, so that none covers a curve or another number."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]  # (classes seen, percent)
_ROOM = 4.0  # percent between the centre of a number and a marker, a line or the edge of another number
_LOWEST, _HIGHEST = 3.0, 109.0  # percent: a number beyond these would leave the axes


def heights(points: Sequence[Point], curves: Sequence[Sequence[Point]], *, width: float) -> list[float]:
    """Returns for each point the height in percent at which to centre its number.

    points: where the numbers belong. curves: the points of all curves in the picture, including the one of `points`; an
    empty one is ignored. width: of a number, in units of x.
    Each height is the nearest one to its point where the number covers neither a curve nor an earlier number.
    """
    taken, found = list(filter(None, curves)), []
    for x, value in points:
        found.append(_height(x, value, taken, half_width=width / 2))
        taken.append([(x - width / 2, found[-1] - 1), (x + width / 2, found[-1] + 1)])  # a number is 5 percent high
    return found


def _height(x: float, value: float, taken: Sequence[Sequence[Point]], *, half_width: float) -> float:
    """Returns the free height nearest to (x, value), or the one right above it if none is free.

    taken: the lines that must not be covered, each as its points. half_width: half of a number's width, in units of x.
    """
    blocked = []  # for each line the (lowest, highest) height that a number above or below x would cover
    for points in taken:
        xs, ys = zip(*points, strict=True)
        candidates = (x - half_width, x, x + half_width, *xs)
        over = [at for at in candidates if abs(at - x) <= half_width and xs[0] <= at <= xs[-1]]
        if over:
            crossed = np.interp(over, xs, ys)
            blocked.append((crossed.min() - _ROOM, crossed.max() + _ROOM))
    for distance in np.arange(_ROOM, _HIGHEST, 0.5):
        for height in (value + distance, value - distance):
            if _LOWEST <= height <= _HIGHEST and not any(low < height < high for low, high in blocked):
                return height
    return value + _ROOM
