"""The finished model of a run, as an object that is called with images and returns probabilities."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cil_func import config as configuration
from cil_func import metrics, tree
from cil_func.deploy import calibration, finished, inputs
from cil_func.deploy.calibration import Calibration, Reject
from cil_func.errors import CheckpointError, ConfigError, DataError, printable
from cil_func.networks.network import Model, Network, backbone_parts
from cil_func.networks.outputs import Classes, classes_of
from cil_func.runs import checkpoints, output, own_code, saved_model
from cil_func.training import gpus, runners
from cil_func.training.preprocess import DTYPES

_TOLD: set[str] = set()  # warnings, each of which is told once
_IMAGES_A_READING = 1024  # about as many are read into memory at a time, whole batches of the forward pass


class Group(NamedTuple):
    """Consecutive images that were read together.

    rows: the numbers of those that could be read, in order. pixels: uint8 (len(rows), H, W, 3).
    unread: {number: reason} of the others.
    """

    rows: list[int]
    pixels: torch.Tensor
    unread: dict[int, str]


class Answers(NamedTuple):
    """What `Predictor.answers` yields for a group of consecutive images.

    rows, unread: as in `Group`. probabilities: (len(rows), K), float64. known: (len(rows),) bool, False for an image
    that is judged to be of no known class; all True where nothing is rejected.
    """

    rows: list[int]
    probabilities: torch.Tensor
    known: torch.Tensor
    unread: dict[int, str]


@dataclass(frozen=True)
class Predictor:
    """A finished model: `predictor(images)` returns the probabilities (B, K) of its classes.

    scorer: gives the scores that training's own evaluation gives. reader: prepares images as training did.
    calibration: what the command calibrate has found; None: it was not used.
    """

    scorer: saved_model.Scorer
    reader: inputs.ImageReader
    calibration: Calibration | None = None

    @property
    def temperature(self) -> float:
        """What scores are divided by before the softmax; 1 without a calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @property
    def saved(self) -> checkpoints.SavedModel:
        """The model's files, as `checkpoints.load_model` returns them."""
        return self.scorer.saved

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names; entry k is the name of column k of the probabilities."""
        return tuple(each["name"] for each in self.saved.description["classes"])

    @property
    def params(self) -> tree.Tree:
        """The weights, nested dicts of tensors on the predictor's device."""
        return self.scorer.model.params

    @property
    def state(self) -> tree.Tree:
        """The buffers, such as batch norm's running statistics; nested dicts of tensors on the predictor's device."""
        return self.scorer.model.state

    @property
    def network(self) -> Network:
        """The functions to which params and state belong."""
        return self.scorer.network

    @cached_property
    def classes(self) -> Classes:
        """Which classes came in which phase, as heads take it. Made once, since torch.export can't trace its making."""
        sizes = self.saved.description["phases"]
        return classes_of(sizes, len(sizes) - 1, device=self.scorer.forward.device)

    def __call__(self, images: Any, *, flips: bool = False) -> torch.Tensor:
        """Returns the probabilities (B, K) of the classes, float64 on the CPU.

        images: a list of paths, Pillow images and uint8 arrays (H, W, 3), in any mixture, or one array (B, H, W, 3).
        flips: whether to return the mean of the probabilities of each image and of its mirror image.
        The class of the highest probability is the one that the run's own evaluation predicts: its scores are the
        same to the bit for the same images in the same order on the same machine, if the run was not compiled.
        Images are read and computed about a thousand at a time.
        Raises DataError, which names all images that can't be read, ValueError for arrays of another type or shape.
        """
        found, mistakes = [self.probabilities(torch.empty(0, len(self.class_names), dtype=torch.float64))], []
        items = inputs.as_items(images)
        for answers in self.answers(items, flips=flips):
            found.append(answers.probabilities)
            mistakes += [f"{_name(items[row], row)}: {reason}" for row, reason in answers.unread.items()]
        if mistakes:
            raise DataError(*mistakes)
        return torch.cat(found)

    def groups(self, images: Sequence[Any]) -> Iterator[Group]:
        """Yields about a thousand images at a time, prepared for the model. images: as `inputs.as_items` returns."""
        size = self.scorer.forward.batch_size
        size *= max(1, _IMAGES_A_READING // size)  # whole batches
        for start in range(0, len(images), size):
            pixels, unread = self.reader.read(images[start : start + size])
            rows = [row for row in range(min(size, len(images) - start)) if row not in unread]
            yield Group([start + row for row in rows], pixels, {start + row: why for row, why in unread.items()})

    def answers(self, images: Sequence[Any], *, flips: bool = False, reject: Reject | None = None) -> Iterator[Answers]:
        """Yields the Answers for consecutive groups of images. An image that can't be read is noted there.

        images, flips: as in `__call__`, in which such an image is an error. reject: which images are unknown; None:
        none. Raises ConfigError for `reject` if there is no calibration.
        """
        for group in self.groups(images):
            logits, features = self.scorer.outputs(group.pixels)
            found = self.probabilities(self.scorer.judged(logits, features))
            known = torch.ones(len(found), dtype=torch.bool)
            if reject:
                known = self.known(logits, features, reject)
            if flips:
                found = (found + self.of_pixels(group.pixels.flip(2))) / 2
            yield Answers(group.rows, found, known, group.unread)

    def known(self, logits: torch.Tensor, features: torch.Tensor, reject: Reject) -> torch.Tensor:
        """Returns for each image whether it may be of a known class, (B,) bool, see `calibration.is_known`.

        logits (B, K), features (B, D): from `apply` or `scorer.outputs`. Raises ConfigError without a calibration.
        """
        needed = calibration.required(self.calibration)
        logits, features = logits.cpu(), features.cpu()
        probabilities = self.probabilities(self.scorer.judged(logits, features))
        strangeness = calibration.strangeness_of(logits, probabilities)
        strangeness["distance"] = -metrics.nme_scores(features, needed.means)
        return calibration.is_known(needed, strangeness, reject)

    def of_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities (B, K) of pixels that are prepared already. pixels: uint8 (B, H, W, 3)."""
        return self.probabilities(self.scorer.scores(pixels))

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns softmax(scores / temperature), float64: p_k = exp(s_k / T) / sum_j exp(s_j / T).

        scores: (B, K). For a method that predicts by logits, s_k is the logit of class k. For one that predicts by the
        nearest class mean, s_k = - || f / ||f|| - m_k ||^2, minus the squared distance of the normalised feature f to
        the mean m_k; as the means are unit vectors too, s_k = 2 cos(f, m_k) - 2.
        float64, since two logits that differ in the last bit may have the same probability in float32.
        """
        return (scores.double() / self.temperature).softmax(dim=1)

    def preprocess(self, images: Any) -> torch.Tensor:
        """Returns what `apply` takes: (B, 3, H, W), normalised, floating-point, on the predictor's device.

        images: as in `__call__`. All are read at once. Raises DataError and ValueError as `__call__` does.
        """
        items = inputs.as_items(images)
        pixels, unread = self.reader.read(items)
        if unread:
            raise DataError(*(f"{_name(items[row], row)}: {reason}" for row, reason in unread.items()))
        _, compute_dtype = DTYPES[self.saved.description["precision"]]
        return self.scorer.preprocess(pixels.to(self.scorer.forward.device), compute_dtype)

    def apply(
        self, params: tree.Tree, state: tree.Tree, images: torch.Tensor, *, train: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, tree.Tree]:
        """Returns (logits (B, K), features (B, D), new state): the pure forward function, as `cil_func.model.apply`.

        params, state: like the predictor's own, which are not looked at. images: from `preprocess`. train: whether
        batch norm uses the batch's statistics and moves the state; frozen backbones never do.
        Works under torch.func, torch.compile and torch.export. It runs all images as one batch.
        """
        features: torch.Tensor | None = None
        moved: tree.Tree = {}
        parts = backbone_parts(Model(params, state))
        for at, weights, buffers in parts:
            own, _, moved = self.network.run(weights, buffers, images, train=train and at is None)
            features = self.network.place(own, len(parts) - 1 if at is None else at, features)
        assert features is not None, "a model has a backbone"
        return self.network.outputs(params, features, self.classes).logits, features, tree.overlay(state, moved)


def load(run: str | Path, *, device: str = "auto", calibrated: bool = True) -> Predictor:
    """Returns the Predictor of a finished run; `cil_func.load` is this.

    run: the run directory, or a copy of it. device: "auto" (a GPU if torch can use one), "cpu" or "cuda".
    calibrated: whether the run's calibration is used, if there is one.
    Warns on stderr if a file of the user's own that the run names has changed since it was trained, and, once in a
    process, if "auto" can't use the GPU that is there, and why.
    On a GPU it makes float32 and cuDNN exact for the whole process, as training does.
    Raises ConfigError if `run` is no run directory or the device isn't there, CheckpointError if the run is not
    finished or the model's files are damaged.
    """
    directory = Path(os.path.expanduser(run))  # pathlib's own fails where there is no such user
    finished.refuse_unfinished(directory)
    saved = checkpoints.load_model(directory)
    finished.check(directory, saved.description)
    own_code.renew(configuration.from_dict(saved.description["config"]))
    for line in finished.changed_code(directory):
        output.tell(printable(f"warning: {line}; it is used as it is now"))
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f'device: "{device}"; give "auto", "cpu" or "cuda"')
    fault = gpus.fault() if device != "cpu" else ""
    if device == "cuda" and fault:
        raise ConfigError(f'device: "cuda", and {fault}; "auto" or "cpu" fits')
    if device == "auto" and (warning := gpus.passed_over()) and warning not in _TOLD:
        _TOLD.add(warning)
        output.tell(f"warning: {warning}")
    place = "cpu" if device == "cpu" or fault else "cuda"
    if place == "cuda":
        runners.exact_float32()
        runners.same_bits()
    found = calibration.load(directory, model_sha256=saved.description["sha256"]) if calibrated else None
    try:
        reader = inputs.reader_of(saved.description["preprocessing"])
        return Predictor(saved_model.scorer(saved, device=place), reader, found)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}: model.json is damaged ({error}); put it back from a copy") from error


def _name(item: Any, row: int) -> str:
    """Returns what a message calls an image: its path, or its number."""
    return str(item) if isinstance(item, (str, Path)) else f"image {row}"
