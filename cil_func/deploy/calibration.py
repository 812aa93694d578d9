"""What images that training has not seen say about a model's probabilities, and about images of no known class.

Stored as calibration.safetensors beside the model; a file of another model is refused.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from cil_func.errors import CheckpointError, ConfigError
from cil_func.runs import files

NAME = files.CALIBRATION
FORMAT = 1
STORED = ("distance", "logit", "energy", "probability")  # what is stored of each image
RULES = ("nearest", *STORED)  # by which an image can be judged to be of no known class, see `is_known`


class Calibration(NamedTuple):
    """What N images that training has not seen say about a model with K classes.

    temperature: what scores are divided by before the softmax. labels: (N,) int64, the images' true classes.
    strangeness: {rule: (N,) float64} how strange each image is by each of STORED, see `strangeness_of`; "distance" is
    that to the mean of its own class. means: (K, D), the class means that distances are measured to.
    report: what was measured with it: numbers by name.
    """

    temperature: float
    labels: torch.Tensor
    strangeness: dict[str, torch.Tensor]
    means: torch.Tensor
    report: dict[str, Any]


class Reject(NamedTuple):
    """Which images are answered "unknown": see `is_known`.

    quantile: the share of the held-out images of known classes that are no stranger, 0 to 1. rule: one of RULES.
    """

    quantile: float
    rule: str = "nearest"


def required(calibration: Calibration | None) -> Calibration:
    """Returns the calibration. Raises ConfigError, which says how to make one, if there is none."""
    if calibration is None:
        make = "python -m cil_func calibrate RUN FOLDER, with FOLDER/<class>/ for each class"
        raise ConfigError(f"rejecting compares with images that training has not seen; give some: {make}")
    return calibration


def strangeness_of(logits: torch.Tensor, probabilities: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns {rule: (N,) float64}, how strange each image is to the model: higher values are stranger.

    "logit": minus the highest logit (Hendrycks et al. 2022, arXiv:1911.11132). "energy": - log sum_k exp(logit_k) (Liu
    et al. 2020, arXiv:2010.03759, eq. 4 with T = 1). "probability": 1 minus the highest probability (Hendrycks and
    Gimpel 2017, arXiv:1610.02136). logits, probabilities: (N, K).
    """
    wide = logits.double()
    return {
        "logit": -wide.amax(1),
        "energy": -wide.logsumexp(1),
        "probability": 1 - probabilities.double().amax(1),
    }


def distances_left_out(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns the squared distance of each image to the mean of the *other* images of its class, (N,) float64.

    features: (N, D); they and the means are L2-normalised, as in `metrics.nme_scores`. labels: (N,), of each class at
    least 2 images. An image that is part of the mean would look nearer than a new one does.
    """
    units = F.normalize(features.double(), dim=1)
    sums = F.one_hot(labels, num_classes).double().T @ units  # (K, D)
    means = F.normalize(sums[labels] - units, dim=1)  # (N, D), of the others
    return (units - means).square().sum(1)


def thresholds(calibration: Calibration, reject: Reject) -> torch.Tensor:
    """Returns the highest strangeness of images of known classes: (K,) for distances, one of each class, else ()."""
    if reject.rule not in ("nearest", "distance"):
        return calibration.strangeness[reject.rule].quantile(reject.quantile)
    values = calibration.strangeness["distance"]
    own = (values[calibration.labels == k] for k in range(len(calibration.means)))
    return torch.stack([of_class.quantile(reject.quantile) for of_class in own])


def is_known(calibration: Calibration, strangeness: dict[str, torch.Tensor], reject: Reject) -> torch.Tensor:
    """Returns for each image whether it may be of a known class, (B,) bool; one of no known class is "unknown".

    strangeness: {rule: how strange each image is}, "distance": (B, K), the squared distance to each mean; else (B,).
    By "nearest" an image is unknown if it is further from its nearest class than the share `quantile` of the held-out
    images of that class. By "distance" it has to be further than that from every class: one class whose images lie far
    apart then accepts nearly everything. By another rule it is unknown if it is stranger than that share of all
    held-out images.
    """
    limits = thresholds(calibration, reject)
    if reject.rule == "nearest":
        least = strangeness["distance"].min(1)
        return least.values <= limits[least.indices]
    known = strangeness[reject.rule] <= limits
    return known.any(1) if reject.rule == "distance" else known


def save(directory: Path, calibration: Calibration, *, model_sha256: str) -> None:
    """Writes calibration.safetensors into a folder, atomically. model_sha256: of the model. Raises DiskError."""
    about = {"format": FORMAT, "model": model_sha256, "temperature": calibration.temperature}
    tensors = {f"strangeness.{rule}": values for rule, values in calibration.strangeness.items()}
    tensors |= {"labels": calibration.labels, "means": calibration.means.contiguous()}
    metadata = {"calibration": json.dumps(about | {"report": calibration.report})}
    files.write_bytes(directory / NAME, safetensors.torch.save(tensors, metadata))


def load(directory: Path, *, model_sha256: str) -> Calibration | None:
    """Returns the calibration in a folder, None if there is none.

    model_sha256: of the model. Raises CheckpointError if the file is damaged or of another model.
    """
    path = directory / NAME
    if not path.exists():
        return None
    again = "calibrate again, or delete the file"
    try:
        data = path.read_bytes()  # safetensors itself opens no path that is no UTF-8
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["calibration"])
        if about["format"] != FORMAT or about["model"] != model_sha256:
            raise CheckpointError(f"{path}: it is of another model or version; {again}")
        strangeness = {rule: tensors[f"strangeness.{rule}"] for rule in STORED}
        return Calibration(about["temperature"], tensors["labels"], strangeness, tensors["means"], about["report"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: it is damaged ({error}); {again}") from error
