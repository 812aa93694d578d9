"""Copies of a finished run's model in which something is changed, for tests of what compares and edits models."""

import shutil

from cil_func import classifier
from cil_func.runs import checkpoints


def changed(run, directory, change):
    """Writes into `directory`, a new folder, the run's configuration and change(its SavedModel). Returns the folder."""
    directory.mkdir(parents=True)
    shutil.copy(run / "config.toml", directory / "config.toml")
    saved = change(checkpoints.load_model(run))
    description = {key: value for key, value in saved.description.items() if key not in ("format", "sha256")}
    checkpoints.save_model(directory, saved._replace(description=description))
    return directory


def with_classes(saved, names):
    """Returns the model with these class names, by row."""
    pairs = zip(saved.description["classes"], names, strict=True)
    classes = [{**entry, "name": name} for entry, name in pairs]
    return saved._replace(description={**saved.description, "classes": classes})


def without_last(saved):
    """Returns the model without its last class."""
    sizes, classes = saved.description["phases"], saved.description["classes"]
    last = [len(classes) - 1]
    return saved._replace(
        params={**saved.params, "classifier": classifier.drop(saved.params["classifier"], last)},
        means=None if saved.means is None else classifier.drop({"means": saved.means}, last)["means"],
        description={**saved.description, "phases": [*sizes[:-1], sizes[-1] - 1], "classes": classes[:-1]},
    )
