"""A finished run that another one goes on from: its model, its exemplars, what it has measured."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cil_func import config as configuration
from cil_func import memory, tree
from cil_func.config import Config
from cil_func.errors import CheckpointError, ConfigError
from cil_func.experiment import Experiment
from cil_func.methods import checks
from cil_func.methods.extra import LOGITS, without_logits
from cil_func.networks.network import Model
from cil_func.runs import checkpoints, memory_files
from cil_func.runs.checkpoints import SavedModel
from cil_func.runs.memory_files import Stored
from cil_func.training.progress import Progress


class Parent(NamedTuple):
    """What a finished run has left.

    directory: of the run. config: its configuration. saved: its model. results: the content of its results.json.
    memory: its exemplars; None if it keeps none.
    """

    directory: Path
    config: Config
    saved: SavedModel
    results: dict[str, Any]
    memory: Stored | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that it knows, in order of arrival."""
        return tuple(each["name"] for each in self.saved.description["classes"])

    @property
    def sizes(self) -> list[int]:
        """How many classes each of its phases brought."""
        return list(self.saved.description["phases"])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that its model takes."""
        height, width = self.saved.description["preprocessing"]["image_size"]
        return height, width


def read(config: Config) -> Parent | None:
    """Reads the run that a configuration extends; None if it extends none.

    Raises ConfigError if it can't be read, CheckpointError if it is damaged.
    """
    if not config.run.extends:
        return None
    directory = Path(config.run.extends)
    if not directory.is_dir():
        raise ConfigError(f"run.extends: {directory} is not there; put the run back, or start anew")
    saved, stored = checkpoints.load_model(directory), configuration.of_run(directory)
    try:
        results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
        gone = bool(results.get("before_edit"))  # left by the command edit, which empties "phases"
        complete = gone or len(results["phases"]) == len(saved.description["phases"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory}: results.json can't be used ({error}); put it back from a copy") from error
    if gone:
        raise ConfigError(
            f"{directory}: classes were dropped from it, so what its phases have measured holds no more; extend the "
            "run before that edit, and drop classes afterwards"
        )
    if not complete:
        raise CheckpointError(f"{directory}: results.json and model.json are of different runs; put them back")
    found = Parent(directory, stored, saved, results, memory_files.load(directory))
    if found.memory and (found.memory.class_names != found.class_names or not _has_the_pixels(found)):
        raise CheckpointError(
            f"{directory / memory_files.FOLDER} is of another run: its classes, or their images, are not those that "
            "model.json names; put the folder back from a copy"
        )
    return found


def _has_the_pixels(parent: Parent) -> bool:
    """Returns whether the exemplars are those that the model's lineage names, by their SHA-256, as far as it says.

    It doesn't where a person has deleted some, or where some were held out for tests.
    """
    stored, first = parent.memory, 0
    phases = (parent.saved.description.get("lineage") or {}).get("phases") or []
    if stored is None or stored.deleted or parent.results.get("held_out") or len(phases) != len(parent.sizes):
        return True
    for phase, size in zip(phases, parent.sizes, strict=True):
        own = (stored.labels >= first) & (stored.labels < first + size)
        first += size
        if int(own.sum()) == phase["exemplars"] and phase["exemplars_sha256"] != _sha256(stored.images[own]):
            return False
    return True


def _sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def progress(parent: Parent, experiment: Experiment, held_out: dict[int, torch.Tensor]) -> Progress:
    """Returns where a run that extends `parent` begins: after its last phase, with its model and exemplars.

    experiment: the new run's, of all classes and phases, old ones included; the training images of the old classes are
    the parent's exemplars, in order of rank, of which as many stay as its own memory holds. held_out: {label: rows} of
    those that are kept for tests.
    Raises ConfigError if the parent's model is no model of the experiment's network.
    """
    known, network = len(parent.class_names), experiment.network
    model = network.adopt(Model(*tree.cast(
        (parent.saved.params, parent.saved.state), dtype=experiment.dtype, device=experiment.device
    )))  # fmt: skip
    _check_fits(parent, experiment, model)
    labels, exemplars, extra = experiment.scenario.train_labels, {}, {}
    if experiment.method.uses_memory:
        for label in range(known):
            rows = torch.nonzero(labels == label).flatten()
            exemplars[label] = rows[~torch.isin(rows, held_out.get(label, rows[:0]))]
        budget = experiment.budget  # which may be smaller than that of the parent
        quota = memory.quota(known, size=budget.size, fixed_per_class=budget.fixed_per_class)
        exemplars = memory.trim(exemplars, quota)
    if experiment.method.extra:
        begun = experiment.method.extra.start(network.pad(model.params))
        extra = checks.remembered(begun, "start", experiment.device)
        remembered, _ = without_logits(tree.cast(parent.saved.extra, device=experiment.device))
        if remembered and parent.saved.description["method"] == experiment.method.name:  # else it means something else
            extra = _embedded(remembered, extra, parent, experiment.method.name)
    replay = experiment.method.replay
    if replay and replay.stores:
        exemplars, logits = _with_logits(parent, experiment, exemplars)
        extra = {**extra, LOGITS: logits}
    rows_so_far = tuple(parent.results["phases"])
    return Progress(len(parent.sizes), model, exemplars, rows_so_far, extra=extra)


def _embedded(remembered: tree.Tree, start: tree.Tree, parent: Parent, method: str) -> tree.Tree:
    """Returns what a method remembers from a parent, each tensor at the beginning of one that it starts with.

    start: what the method begins with for the classes of the whole run.
    Raises ConfigError if the two have other parts, or a tensor has become smaller: its file has changed meanwhile.
    """
    old, new = (tree.to_paths(part) for part in (remembered, start))
    for path in [*old, *new]:
        sizes = [tuple(part[path].shape) if path in part else () for part in (old, new)]
        grows = len(sizes[0]) == len(sizes[1]) and all(a <= b for a, b in zip(*sizes, strict=True))
        if not (path in old and path in new and grows):
            raise ConfigError(
                f"method.name: {method} begins with another {path} than it remembers from {parent.directory}; take the "
                "method as that run was trained by it"
            )
    return tree.map(tree.embed, remembered, start)


def _with_logits(
    parent: Parent, experiment: Experiment, exemplars: dict[int, torch.Tensor]
) -> tuple[dict[int, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns (the exemplars whose logits the parent has stored, these logits, {label: (M, K)}).

    exemplars: {label: rows of the training images}. Those that the parent hasn't trained on, since it tested on them,
    have no logits; they are the last of their class.
    Raises ConfigError if the logits of all exemplars of a class are missing.
    """
    assert parent.memory, "a method with replay has exemplars"
    stored, labels, ranks = parent.saved.extra.get(LOGITS, {}), experiment.scenario.train_labels, parent.memory.ranks
    kept, found = {}, {}
    for label, rows in exemplars.items():
        own = torch.nonzero(labels == label).flatten()  # the parent's exemplars, in order of rank
        places = torch.from_numpy(ranks[parent.memory.labels == label])[torch.isin(own, rows)]
        logits = stored.get(str(label), torch.zeros(0))
        known = places < len(logits)
        if len(rows) and not known.any():
            method, before = experiment.method.name, parent.saved.description["method"]
            raise ConfigError(
                f"method.name: {method} replays the logits of exemplars, and {parent.directory}, trained by {before}, "
                f"has stored none of class {parent.class_names[label]!r}; take another method"
            )
        kept[label], found[str(label)] = rows[known], logits[places[known]].to(experiment.dtype)
    return kept, found


def _check_fits(parent: Parent, experiment: Experiment, model: Model) -> None:
    """Raises ConfigError unless a model has the shapes that the experiment's network has for the parent's classes.

    Raises it too if the method computes rows from features and another one has made the parent's: they don't compare.
    """
    fresh = experiment.network.drawn(0, parent.sizes)
    shapes = [
        {path: leaf.shape for path, leaf in tree.to_paths(part).items()} for pair in (model, fresh) for part in pair
    ]
    method, before = experiment.method.name, parent.saved.description["method"]
    computes = experiment.method.extra is not None and experiment.method.extra.fit is not None
    if shapes[:2] != shapes[2:] or (computes and method != before):
        raise ConfigError(
            f"method.name: {method} can't go on with the model of {parent.directory}, which {before} has trained; "
            f"take {before}"
        )
