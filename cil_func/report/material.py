"""What a report is made of: the content of a run's files, read by `runs.report_files`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cil_func.report.axes import Events, Results


class Exemplars(NamedTuple):
    """Some exemplars of a class. name: of the class. kept: how many it has.

    pictures: some of them in order of rank, each (its MIME type, the bytes of the file).
    """

    name: str
    kept: int
    pictures: Sequence[tuple[str, bytes]]


class Material(NamedTuple):
    """The content of a run's files.

    directory: the run directory, as text for a person. results: of results.json. log: the events of metrics.jsonl.
    lineage: what model.json says about where the run came from, {} if nothing. exemplars: of its memory/, () if none.
    state: the run's state, such as "finished"; "" if it isn't known.
    """

    directory: str
    results: Results
    log: Events
    lineage: Mapping[str, Any] = {}
    exemplars: Sequence[Exemplars] = ()
    state: str = ""
