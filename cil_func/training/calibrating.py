"""Whether a model's probabilities are what they say: its calibration error, and the temperature that mends it."""

import torch
import torch.nn.functional as F

from cil_func import metrics

Judged = tuple[torch.Tensor, torch.Tensor]  # scores (N, K), of which the highest is the prediction, and labels (N,)


def measure(tested: Judged, held_out: Judged | None) -> dict:
    """Returns the calibration of a model on test images, by the keys of "calibration" in results.json.

    tested: on the test images. held_out: on images that neither training nor the memory has; None: there are none.
    Probabilities are softmax(scores / T). Keys: ece, the expected calibration error with T = 1, a fraction;
    temperature, the T fitted on the held-out images, see `fit_temperature`; ece_calibrated, the error with it; bins and
    bins_calibrated, what `metrics.calibration_bins` returns for each, rounded to four digits. What needs held-out
    images is None without them.
    """
    ece, bins = _errors(*tested)
    if held_out is None:
        return {"ece": ece, "bins": bins, "temperature": None, "ece_calibrated": None, "bins_calibrated": None}
    temperature = fit_temperature(*held_out)
    scores, labels = tested
    calibrated, after = _errors(scores.double() / temperature, labels)
    return {
        "ece": ece, "bins": bins, "temperature": temperature, "ece_calibrated": calibrated, "bins_calibrated": after,
    }  # fmt: skip


def _errors(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, list[list[float]]]:
    """Returns (expected calibration error, bins) of softmax(scores)."""
    confidence, predictions = scores.double().softmax(1).max(1)
    bins = metrics.calibration_bins(confidence, predictions == labels)
    error = metrics.expected_calibration_error(confidence, predictions == labels)
    return error, [[count, round(sure, 4), round(right, 4)] for count, sure, right in bins]


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the T, 0.01 to 100, for which softmax(scores / T) gives the labels the highest likelihood.

    scores: (N, K), logits or any other scores; labels: (N,). N at least 1; the images must not be training images.
    The prediction, the class of the highest score, doesn't change. Source: Guo et al. 2017 (arXiv:1706.04599), section
    4.2. Minimised by torch's L-BFGS over 1 / T, in which the loss is convex.
    """
    wide, inverse = scores.double(), torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [inverse], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(wide * inverse, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return 1 / min(max(inverse.item(), 0.01), 100.0)  # without errors it has no lower end, and without success no upper
