"""Makes the model that a finished run leaves, and predicts with it as the run's own evaluation does."""

from dataclasses import dataclass

import torch

from cil_func import config as configuration
from cil_func import experiment, tree
from cil_func.data import sources
from cil_func.data.images import Resident
from cil_func.data.reading import image_file
from cil_func.errors import CheckpointError, DataError
from cil_func.methods.base import Rectify
from cil_func.networks.network import Model, Network
from cil_func.networks.outputs import Classes, classes_of
from cil_func.runs import environment, lineage
from cil_func.runs.checkpoints import SavedModel
from cil_func.runs.method_of import method_of
from cil_func.runs.network_of import network_of
from cil_func.runs.setup import Setup
from cil_func.training import evaluation, inference
from cil_func.training.preprocess import DTYPES, Preprocess
from cil_func.training.progress import Progress


def of_run(setup: Setup, progress: Progress) -> SavedModel:
    """Returns the model of a run whose phases are all learned, with all that a prediction needs.

    setup: the run. progress: where it ended. With several processes each has to call this: they share the work of
    computing the class means.
    """
    made, learned, means = setup.experiment, progress.learned, None
    assert learned, "all phases are learned"
    if made.method.predict == "nme":
        means = experiment.class_means(made, made.scenario.phases[-1], learned, progress.exemplars)
    return SavedModel(learned.params, learned.state, means, _description(setup, progress), progress.extra)


def network(saved: SavedModel) -> Network:
    """Returns the network that a saved model's params and state belong to. Raises ConfigError if it can't be made."""
    sizes = saved.description["phases"]
    config = configuration.from_dict(saved.description["config"])
    return network_of(
        config,
        method_of(config),
        num_classes=sum(sizes),
        num_phases=len(sizes),
        image_size=tuple(saved.description["preprocessing"]["image_size"]),
    )


@dataclass(frozen=True)
class Scorer:
    """Gives images the scores that the run's own evaluation gives them, see `scores`. Made by `scorer`.

    saved: the model. network: its functions. model: its params and state, on the device of `forward`.
    preprocess: normalises pixels. forward: runs the backbones in batches. classes: those that are known, on the CPU.
    rectify: what the method makes of logits; None: nothing.
    """

    saved: SavedModel
    network: Network
    model: Model
    preprocess: Preprocess
    forward: inference.Forward
    classes: Classes
    rectify: Rectify | None = None

    def outputs(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (logits (N, K), features (N, D)), on the CPU. pixels, errors: as in `scores`."""
        height, width = self.saved.description["preprocessing"]["image_size"]
        shape = (height, width, 3)
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != shape:
            fits = f"uint8 images of shape (N, {', '.join(map(str, shape))})"
            raise ValueError(f"scores: images {tuple(pixels.shape)} {pixels.dtype}; give {fits}")
        features = self.forward.features(self.model, Resident(pixels), torch.arange(len(pixels)), when="scores")
        return self.network.outputs(self.saved.params, features, self.classes).logits, features

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the scores (N, K), on the CPU. pixels, errors: as in the function `scores`."""
        return self.judged(*self.outputs(pixels))

    def judged(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Returns the scores (N, K) by the method's rule of prediction, of what `outputs` has returned."""
        if self.rectify:
            logits = self.rectify(logits, self.saved.extra, self.classes)
        return evaluation.scores(logits, features, means=self.saved.means, predict=self.saved.description["predict"])


def scorer(saved: SavedModel, *, device: torch.device | str = "cpu") -> Scorer:
    """Returns the Scorer of a saved model. device: where it computes.

    Raises ConfigError as `network` does, CheckpointError if the backbone of this installation has other weights.
    """
    settings, device = saved.description["preprocessing"], torch.device(device)
    dtype, compute_dtype = DTYPES[saved.description["precision"]]
    preprocess = Preprocess(
        *(torch.tensor(settings[key], dtype=dtype, device=device) for key in ("mean", "std"))
    )
    net = network(saved)
    _refuse_other_backbone(saved, net)
    function = inference.forward_of(net, preprocess, dtype=compute_dtype)
    height, width = settings["image_size"]
    forward = inference.Forward(net, function, inference.batch_size(device, (height, width)), device)
    sizes, method = saved.description["phases"], method_of(configuration.from_dict(saved.description["config"]))
    model, classes = Model(*tree.cast((saved.params, saved.state), device=device)), classes_of(sizes, len(sizes) - 1)
    return Scorer(saved, net, model, preprocess, forward, classes, method.rectify)


def _refuse_other_backbone(saved: SavedModel, network: Network) -> None:
    """Raises CheckpointError unless a saved model's backbones have the weights and statistics that the network takes.

    Another version of timm, or of a user's own file, may make another network of the same name: weights that it doesn't
    know would be left out without a word. The backbones of this package read their depth off their weights.
    """
    if ":" not in saved.description["backbone"]:
        return
    try:
        fresh = network.drawn(0, [1] * len(saved.description["phases"]))
    except DataError:  # the weights that it began with are gone; those that it has now are all saved
        return
    own, wanted = (
        {path: tuple(leaf.shape) for path, leaf in tree.to_paths(_backbones(*model)).items()}
        for model in ((saved.params, saved.state), fresh)
    )
    other = sorted(path for path in own.keys() | wanted.keys() if own.get(path) != wanted.get(path))
    if other:
        there, here = (shapes.get(other[0], "no such weight") for shapes in (own, wanted))
        made, now = (" and ".join(f"{name} {each}" for name, each in versions.items())
                     for versions in (saved.description.get("made_with", {}), environment.versions()))  # fmt: skip
        raise CheckpointError(
            f"the model has another {saved.description['backbone']} than there is here: {other[0]} is {there}, here "
            f"{here}; it was made with {made or 'an unknown version'}, here is {now}; install what it was made with"
        )


def _backbones(params: tree.Tree, state: tree.Tree) -> tree.Tree:
    """Returns what belongs to backbones, whatever the number of classes."""
    return {"params": {name: part for name, part in params.items() if name in ("backbone", "frozen")}, "state": state}


def scores(saved: SavedModel, pixels: torch.Tensor, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns the scores (N, K), on the CPU, that a saved model (`checkpoints.load_model`) gives to images.

    pixels: uint8 (N, H, W, 3), of the image size that `saved.description` names. device: where to compute.
    The class of the highest score is the prediction: entry k of the description's "classes" names class k. The scores
    are logits, or, for a method that predicts by class means, grow with the nearness to each mean; they are no
    probabilities.
    Computed as in the run's evaluation, in its precision and batches, but never compiled: for a run with `run.compile`
    the scores may be rounded otherwise. Raises ValueError for images of another type or size.
    """
    return scorer(saved, device=device).scores(pixels)


def _description(setup: Setup, progress: Progress) -> dict:
    """Returns the content of model.json: all that a prediction needs besides the tensors, and where it comes from."""
    made, data, preprocess = setup.experiment, setup.config.data, setup.experiment.preprocess
    stored = configuration.to_dict(setup.config)
    rules = sources.file_rules(data.name, exif_orientation=data.exif_orientation, background=data.background)
    height, width = made.train_images.shape
    return {
        "method": made.method.name,
        "predict": made.method.predict,
        "backbone": setup.config.model.backbone,
        "config": {table: stored[table] for table in ("method", "model")},  # from which the network is built again
        "phases": made.sizes(made.scenario.phases[-1]),
        "classes": [  # by row of the classifier
            {"index": index, "name": made.class_names[index]} for index in made.scenario.class_order
        ],
        "preprocessing": {
            "image_size": [height, width],
            "exif_orientation": "apply" if rules.upright else "ignore",
            "background": rules.background and list(rules.background),  # behind transparent pixels; None: none
            "resize": image_file.RESIZE if height == width else None,  # None: images have to be of that size
            "mean": preprocess.mean.to(torch.float64).tolist(),
            "std": preprocess.std.to(torch.float64).tolist(),
        },
        "precision": setup.config.run.precision,
        "made_with": environment.versions(),
        "lineage": lineage.of_run(setup, progress),
    }
