"""Finished runs that a study takes as they are: only those that it asks for, on the images that it names."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cil_func.config import Config
from cil_func.report.lines import names_text
from cil_func.runs import own_code, same_images
from cil_func.runs.directory import found_here, refuse_another_run
from cil_func.studies import sweep_table


class FinishedRuns:
    """Checks runs before their results are used. It looks at images once, whatever number of runs had them.

    where: what the command calls the argument that names their directory, for messages. tell: called with one line for
    each warning, which names its runs.
    """

    def __init__(self, *, where: str, tell: Callable[[str], None]):
        self._where, self._tell = where, tell
        self._images: dict[str, str] = {}  # {what the runs had: the warning about it}

    def check(self, runs: Mapping[Path, Config]) -> None:
        """Tells which finished runs were trained on images, or by an own file, that have changed since.

        runs: {run directory: the configuration that the command asks for}; those that aren't finished are left out.
        Raises what `refuse_another_run` and `same_images.warning_if_changed` raise: ConfigError for a run of another
        configuration or, with another data.path, of other images.
        """
        warnings: dict[str, list[str]] = {}
        for directory, config in runs.items():
            stored = refuse_another_run(config, directory, where=self._where, of_many=True)
            results = sweep_table.results_of(directory) if stored else {}
            if not stored or not results:
                continue
            for place in own_code.changed(results.get("own_code") or {}):
                line = f"{place} has changed since this run; another {self._where} trains by it as it is now"
                warnings.setdefault(line, []).append(directory.name)
            if line := self._images_warning(directory, found_here(stored, config), stored.data.path, results):
                warnings.setdefault(line, []).append(directory.name)
        for line, named in warnings.items():
            self._tell(f"{names_text(named)}: {line}")

    def _images_warning(self, directory: Path, config: Config, path: str, results: dict) -> str:
        """Returns a warning if a run's images have changed, else "". config: the run's, here. path: that it began with.

        Raises what `same_images.warning_if_changed` raises.
        """
        moved_from = path if path != config.data.path else ""
        read = config.data.model_dump(exclude={"class_order", "order_seed"})
        had = [results.get(key) for key in ("data_fingerprint", "data_stamp", "held_out")]
        key = repr((moved_from, read, config.run.extends, had))
        if key not in self._images:
            own_code.renew(config)  # each run is a process of its own
            self._images[key] = same_images.warning_if_changed(
                config, directory, results, moved_from=moved_from, where=self._where
            )
        return self._images[key]
