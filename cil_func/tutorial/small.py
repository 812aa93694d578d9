"""What chapters 2 to 4 train: a network of one hidden layer on digits, as pure functions of a tree of tensors.

It is small enough to learn five phases in a second. The package's own networks are in `networks`.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from cil_func import classifier, metrics, optim, rng
from cil_func.data import scenario, sources

HIDDEN = 64
Params = dict[str, dict[str, torch.Tensor]]


class Loss(Protocol):
    """(params, images (B, D), labels (B,)) -> 0-d tensor, the mean over the batch."""

    def __call__(self, params: Params, images: torch.Tensor, labels: torch.Tensor, /) -> torch.Tensor: ...


class Digits(NamedTuple):
    """scikit-learn's digits as vectors, with labels in order of arrival.

    train, test: (N, 64) float32, pixels from 0 to 1. train_labels, test_labels: int64 (N,), how many classes arrive
    before an image's own. phases: a `scenario.Phase` each, with the rows of its classes.
    names: of the classes, in order of arrival.
    """

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    phases: tuple[scenario.Phase, ...]
    names: tuple[str, ...]


def digits(*, increment: int = 2) -> Digits:
    """Loads the digits, in the canonical order. increment: classes of each phase."""
    data = sources.load("digits")
    order = scenario.class_order("canonical", num_classes=len(data.class_names), class_names=data.class_names)
    cut = scenario.build(data.train_targets, data.test_targets, order, initial_increment=0, increment=increment)
    train, test = (
        torch.as_tensor(images)[..., 0].flatten(1).float() / 255 for images in (data.train_images, data.test_images)
    )
    names = tuple(data.class_names[index] for index in order)
    return Digits(train, cut.train_labels, test, cut.test_labels, cut.phases, names)


def init(key: int, num_classes: int, *, pixels: int = 64) -> Params:
    """Draws a network: {"hidden": a linear layer, "classifier": another}, each {"weight", "bias"}. key: an int seed."""
    hidden = classifier.init(rng.fold_in(key, "hidden"), pixels, HIDDEN)
    return {"hidden": hidden, "classifier": classifier.init(rng.fold_in(key, "classifier"), HIDDEN, num_classes)}


def features(params: Params, images: torch.Tensor) -> torch.Tensor:
    """Returns the features (B, HIDDEN) of images (B, D): the hidden layer's output after a ReLU."""
    return F.relu(classifier.apply(params["hidden"], images))


def apply(params: Params, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits (B, K) of images (B, D)."""
    return classifier.apply(params["classifier"], features(params, images))


def expand(params: Params, key: int, num_new: int) -> Params:
    """Returns the network with num_new more classes. key: an int seed for their rows."""
    return {**params, "classifier": classifier.expand(params["classifier"], key, num_new)}


def fit(
    params: Params,
    loss: Loss,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    key: int = 0,
    epochs: int = 10,
    batch_size: int = 32,
    rate: float = 0.1,
) -> Params:
    """Trains by SGD with momentum 0.9 and a rate that falls on a cosine. Returns the trained params, a new tree.

    params: at the start; they stay as they are. images: (N, D). labels: int64 (N,). key: an int seed for the order.
    """
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    opt_state, schedule = optimiser.init(params), optim.cosine(rate, epochs=epochs)
    gradient = torch.func.grad(loss)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=rng.generator(rng.fold_in(key, "order", epoch)))
        for rows in order.split(batch_size):
            grads = gradient(params, images[rows], labels[rows])
            updates, opt_state = optimiser.update(grads, opt_state, params, torch.tensor(schedule(epoch)))
            params = optim.apply_updates(params, updates)
    return params


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Returns the accuracy on each class that has images, in percent. logits: (N, K). labels: int64 (N,), below K."""
    right = metrics.correct(logits, labels)
    return [100 * right[labels == label].float().mean().item() for label in labels.unique()]
