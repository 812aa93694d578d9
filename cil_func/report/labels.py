"""Where the numbers of accuracy.png stand, so that none covers a curve or another number."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]  # (classes seen, percent)
_ROOM = 4.0  # percent between the centre of a number and that of a marker, a line or another number's edge
_LOWEST, _HIGHEST = 3.0, 109.0  # percent: a number beyond these would leave the axes


def heights(points: Sequence[Point], curves: Sequence[Sequence[Point]], *, width: float) -> list[float]:
    """The height in percent at which to centre the number of each point: the nearest one that covers nothing.

    curves: the points of each curve in the picture, that of the numbers included; width: of a number, in units of x.
    """
    taken, found = list(filter(None, curves)), []
    for x, value in points:
        found.append(_height(x, value, taken, half_width=width / 2))
        taken.append([(x - width / 2, found[-1] - 1), (x + width / 2, found[-1] + 1)])  # a number is 5 percent high
    return found


def _height(x: float, value: float, taken: Sequence[Sequence[Point]], *, half_width: float) -> float:
    """The free height nearest to (x, value); right above it if none is free. taken: lines that must not be covered."""
    blocked = []  # (lowest, highest) of each line over the number's width
    for points in taken:
        xs, ys = zip(*points, strict=True)
        places = (x - half_width, x, x + half_width, *xs)
        over = [at for at in places if abs(at - x) <= half_width and xs[0] <= at <= xs[-1]]
        if over:
            crossed = np.interp(over, xs, ys)
            blocked.append((crossed.min() - _ROOM, crossed.max() + _ROOM))
    for distance in np.arange(_ROOM, _HIGHEST, 0.5):
        for height in (value + distance, value - distance):
            if _LOWEST <= height <= _HIGHEST and not any(low < height < high for low, high in blocked):
                return height
    return value + _ROOM
