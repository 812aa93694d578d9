"""The ranges of methods' options, as annotations: `weight: Weight = 1.0`. A value outside is refused before a run."""

from typing import Annotated

from annotated_types import Interval

Weight = Annotated[float, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Part = Annotated[float, Interval(gt=0, lt=1)]
Order = Annotated[float, Interval(ge=1)]  # of a norm
Gap = Annotated[float, Interval(ge=0, le=2)]  # of two cosines
Count = Annotated[int, Interval(ge=1)]
Number = Annotated[int, Interval(ge=0)]
