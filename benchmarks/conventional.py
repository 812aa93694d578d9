"""A conventional trainer to compare with: WA as the field's toolboxes write it, with modules, autograd and DataLoader.

`python -m benchmarks.run` compares a whole run of it with this package's, by the same recipe. It is written to be fair:
uint8 images in memory instead of one file for each image, workers that live longer than an epoch, one loader and one
pass where toolboxes have several, no synchronisation with the GPU inside an epoch. conventional_step.py has the
network, the loss and the step.
"""

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import measure
from benchmarks.conventional_step import Net, align, distillation, make_scheduler, make_step, make_transforms
from cil_func.config.schema import Config
from cil_func.data import scenario, sources

__all__ = ["Learner", "Net", "align", "distillation", "herd", "make_step", "run", "split"]

EVAL_BATCH = 500


def run(
    config: Config,
    data: sources.Dataset,
    *,
    emit: Callable[[dict], None] = lambda row: None,
    workers: int = 2,
    autocast: bool = False,
    channels_last: bool = False,
) -> dict:
    """Trains all phases of WA by the conventional trainer, and returns its results.

    {"phases": [{phase, top1, nme_top1, gamma, memory_size, seconds}, ...], "average_incremental_accuracy",
    "last_accuracy"}. Accuracies are in percent, on all test images of the classes seen. "seconds" is {train, select,
    evaluate}. gamma is None if nothing was aligned.
    config, data: the recipe and the images. emit: called with each phase's entry of "phases" at its end. workers:
    number of processes that load images. autocast, channels_last: see `make_step`; without autocast it is float32,
    whatever run.precision says.
    Raises ValueError for a recipe that isn't implemented here, and for a loss that isn't finite.
    """
    check(config)
    learner = Learner(config, data, workers=workers, autocast=autocast, channels_last=channels_last)
    rows = []
    for phase in range(len(learner.sizes)):
        row, seconds = {"phase": phase}, {}
        for part in (learner.train, learner.select, learner.evaluate):
            clock = time.perf_counter()
            row |= part(phase)
            seconds[part.__name__] = time.perf_counter() - clock
        rows.append(row | {"seconds": seconds})
        emit(rows[-1])
    top1 = [row["top1"] for row in rows]
    return {"phases": rows, "average_incremental_accuracy": float(np.mean(top1)), "last_accuracy": top1[-1]}


class Images(Dataset):
    """A data set of images uint8 (N, H, W, 3) and labels (N,) in memory. Item i is (transformed image i, its label).

    transform: called with an image as a PIL image each time it is read; returns a float tensor (3, H, W).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


class Learner:
    """The network and the memory of the conventional trainer.

    `train`, `select` and `evaluate` are the parts of a phase, called in this order with its number. Each returns {name:
    measure}. The arguments are those of `run`.
    exemplars: {label: rows of the training images, in order of rank}.
    """

    def __init__(
        self, config: Config, data: sources.Dataset, *, workers: int, autocast: bool, channels_last: bool
    ):
        self.device = torch.device(measure.device_of(config))
        self.config, self.data, self.workers = config, data, workers
        self.autocast, self.channels_last = autocast, channels_last
        self.train_labels, self.test_labels, self.sizes = split(config, data)
        self.augmented, self.plain = make_transforms(config, data.train_images.shape[1])
        self.exemplars: dict[int, np.ndarray] = {}  # label -> rows, in order of rank
        torch.manual_seed(config.run.seed)
        self.net = Net(int(config.model.backbone.removeprefix("resnet")), self.sizes[0]).to(self.device)

    def train(self, phase: int) -> dict:
        """Trains the net on a phase's classes and the exemplars of the old ones, and aligns it. Returns {"gamma"}.

        gamma is None in phase 0, and if method.align is false.
        """
        teacher = None
        if phase:
            teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.net.grow(self.sizes[phase])
        rows = np.concatenate([self.new_rows(phase), *self.exemplars.values()])
        self.fit(phase, teacher, Images(self.data.train_images[rows], self.train_labels[rows], self.augmented))
        aligned = phase > 0 and self.config.method.align
        return {"gamma": align(self.net.head, self.sizes[phase]) if aligned else None}

    def fit(self, phase: int, teacher: Net | None, images: Images) -> None:
        """Trains the net for the epochs of a phase. Reads the loss once an epoch.

        teacher: the net of the phase before; None in phase 0. images: to train on. Raises ValueError for a loss that
        isn't finite.
        """
        optim, method = self.config.optim_of_phase(phase), self.config.method
        optimiser = torch.optim.SGD(
            self.net.parameters(), lr=optim.learning_rate, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
        scheduler = make_scheduler(optimiser, optim)
        step = make_step(
            self.net, teacher, optimiser, autocast=self.autocast, channels_last=self.channels_last,
            temperature=method.temperature, kd_weight=method.kd_weight, kd_combination=method.kd_combination,
            label_smoothing=method.label_smoothing,
        )  # fmt: skip
        batches = self.loader(images, optim.batch_size, shuffle=True)
        self.net.train()
        for epoch in range(optim.epochs):
            total = torch.zeros((), device=self.device)
            for pixels, labels in batches:
                total += step(
                    pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                )
            if not total.isfinite():
                raise ValueError(f"conventional: phase {phase}, epoch {epoch}: the loss is {total.item()}")
            scheduler.step()

    def select(self, phase: int) -> dict:
        """Keeps the first exemplars of old classes, and herds those of new classes. Returns {"memory_size"}."""
        memory, seen = self.config.memory, sum(self.sizes[: phase + 1])
        quota, rows = memory.fixed_per_class or memory.size // seen, self.new_rows(phase)
        _, features = self.outputs(Images(self.data.train_images[rows], self.train_labels[rows], self.plain))
        self.exemplars = {label: kept[:quota] for label, kept in self.exemplars.items()}
        for label in range(seen - self.sizes[phase], seen):
            own = np.flatnonzero(self.train_labels[rows] == label)
            self.exemplars[label] = rows[own[herd(features[own], min(quota, len(own)))]]
        return {"memory_size": sum(map(len, self.exemplars.values()))}

    def evaluate(self, phase: int) -> dict:
        """Returns {"top1", "nme_top1"} on the test images of the classes seen, in percent.

        top1: by the highest logit. nme_top1: by the nearest of the classes' mean features, taken over the exemplars.
        """
        kept, seen = np.concatenate(list(self.exemplars.values())), sum(self.sizes[: phase + 1])
        labels = self.train_labels[kept]
        _, features = self.outputs(Images(self.data.train_images[kept], labels, self.plain))
        means = np.stack([features[labels == label].mean(axis=0) for label in range(seen)])  # (K, D)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        tests = np.flatnonzero(self.test_labels < seen)
        labels = self.test_labels[tests]
        logits, features = self.outputs(Images(self.data.test_images[tests], labels, self.plain))
        nearest = (features @ means.T).argmax(axis=1)  # (N,) of unit vectors: the largest product is nearest
        top1, nme_top1 = (100.0 * float((guess == labels).mean()) for guess in (logits.argmax(axis=1), nearest))
        return {"top1": top1, "nme_top1": nme_top1}

    @torch.no_grad()
    def outputs(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits (N, K) and L2-normalised features (N, D), in eval mode."""
        self.net.eval()
        parts = []
        for pixels, _ in self.loader(images, EVAL_BATCH):
            pixels = pixels.to(self.device, non_blocking=True)
            if self.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                logits, features = self.net(pixels)
            parts.append((logits.float().cpu(), F.normalize(features.float()).cpu()))
        logits, features = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return logits, features

    def loader(self, images: Images, batch_size: int, *, shuffle: bool = False) -> DataLoader:
        """Returns a loader with worker processes of one thread each. The last, smaller batch is used."""
        return DataLoader(
            images,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.workers,
            persistent_workers=shuffle and self.workers > 0,  # training reads it once an epoch
            pin_memory=self.device.type == "cuda",
        )

    def new_rows(self, phase: int) -> np.ndarray:
        """Returns the rows of the training images of a phase's classes."""
        seen = sum(self.sizes[: phase + 1])
        return np.flatnonzero((self.train_labels < seen) & (self.train_labels >= seen - self.sizes[phase]))


def check(config: Config) -> None:
    """Raises ValueError if the configuration asks for something that isn't implemented here."""
    for phase in (0, 1):
        optim = config.optim_of_phase(phase)
        unfit = {
            "method.name": config.method.name != "wa",
            "method.clip_weights": config.method.clip_weights,
            "memory.selection": config.memory.selection != "herding",
            "memory.size": not (config.memory.size or config.memory.fixed_per_class),
            "model.backbone": config.model.backbone.startswith("timm:"),
            "data.mean": not config.data.mean,
            **{f"augment.{key}": getattr(config.augment, key) > 0 for key in ("contrast", "saturation", "erasing")},
            "augment.window": config.augment.window > 0,
            "optim.norm_batch": optim.norm_batch not in (0, optim.batch_size),
            "optim.warmup_epochs": optim.warmup_epochs > 0,
        }
        for key in filter(unfit.get, unfit):
            raise ValueError(f"conventional: {key} has a value that is not implemented here")


def split(config: Config, data: sources.Dataset) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns (labels of training images (N,), labels of test images, number of new classes of each phase).

    Label k is the class that comes as number k, counted from 0 over all phases. config: [data]'s order and increments.
    """
    settings, num_classes = config.data, len(data.class_names)
    order = scenario.class_order(
        settings.class_order, num_classes=num_classes, class_names=data.class_names, order_seed=settings.order_seed
    )
    label_of_class = np.argsort(order)
    sizes = [settings.initial_increment or settings.increment]
    while sum(sizes) < num_classes:
        sizes.append(min(settings.increment, num_classes - sum(sizes)))
    return label_of_class[data.train_targets], label_of_class[data.test_targets], sizes


def herd(features: np.ndarray, count: int) -> list[int]:
    """Chooses `count` rows one after the other, each so that the mean of the chosen ones is nearest to the mean of all.

    features: (N, D). Returns the rows' numbers in order of selection.
    """
    mean, chosen_sum, chosen = features.mean(axis=0), np.zeros_like(features[0]), []
    for number in range(1, count + 1):
        distances = np.linalg.norm(mean - (features + chosen_sum) / number, axis=1)  # (N,)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
        chosen_sum = chosen_sum + features[chosen[-1]]
    return chosen
