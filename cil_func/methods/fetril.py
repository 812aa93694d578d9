"""FeTrIL, feature translation (Petit et al. 2023, arXiv:2211.13131, section 3), with a linear classifier.

The backbone is frozen after phase 0, and of an old class c only its mean feature mu_c is kept. It is replayed as

    f - mu_k + mu_c        for the features f of the new class k whose mean is nearest to mu_c by cosine (equation 2)

and a linear classifier is trained on these and on the new classes' features. No image is kept.
Constants of the training: PyCIL's.
"""

import torch
import torch.nn.functional as F

from cil_func import classifier, losses, optim, rng
from cil_func.methods import frozen
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Count, Positive, Weight

_BATCH = 128


def make(
    options: Options, *, tuned_epochs: Count = 50, rate: Positive = 0.05, decay: Weight = 5e-4, first_phase: bool = True
) -> Method:
    """Returns FeTrIL.

    tuned_epochs: of the classifier's training on features, in each phase; by SGD with momentum 0.9, the learning rate
    `rate`, which falls on a cosine, and weight decay `decay`. first_phase: whether phase 0 trains backbone and
    classifier, see `frozen.make`; if not, phase 0 trains the classifier like the others.
    """

    def start(params):
        rows = params["classifier"]["weight"]
        return {"classifier": {"means": torch.zeros(*rows.shape, dtype=torch.float64, device=rows.device)}}

    def fit(params, extra, features, labels, classes, key):
        means, rows = extra["classifier"]["means"].clone(), params["classifier"]
        num_old = int(classes.old.sum())
        means[num_old : len(rows["bias"])] = frozen.means_of(features, labels).to(means)
        if num_old or not first_phase:
            data = replayed(features.to(rows["weight"]), labels.to(means.device), means, num_old)
            rows = trained(rows, *data, epochs=tuned_epochs, rate=rate, decay=decay, key=key)
        return {**params, "classifier": rows}, {"classifier": {"means": means}}

    return frozen.make("fetril", options, fit, first_phase=first_phase, start=start)


def replayed(
    features: torch.Tensor, labels: torch.Tensor, means: torch.Tensor, num_old: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (features (N', D), labels (N',)): those given, and the translated ones of each of num_old old classes.

    labels: (N,) of the new classes, from num_old on. means: (C, D) of all classes, in float64.
    """
    found, new = [(features, labels)], means[num_old : int(labels.max()) + 1]
    cosines = F.normalize(means[:num_old], dim=1) @ F.normalize(new, dim=1).T      # (num_old, m)
    for label, place in enumerate(cosines.argmax(1).tolist()):
        moved = features[labels == num_old + place] + (means[label] - new[place]).to(features)
        found.append((moved, torch.full((len(moved),), label, device=labels.device)))
    return torch.cat([rows for rows, _ in found]), torch.cat([own for _, own in found])


def trained(rows, features, labels, *, epochs: int, rate: float, decay: float, key: int):
    """Returns the rows after training by cross-entropy. key: the seed of the order of the features in each epoch."""
    optimiser, schedule = optim.sgd(momentum=0.9, weight_decay=decay), optim.cosine(rate, epochs=max(epochs, 1))
    grad = torch.func.grad(lambda rows, f, y: losses.cross_entropy(classifier.apply(rows, f), y))
    state = optimiser.init(rows)
    for epoch in range(epochs):
        now = torch.tensor(schedule(epoch), dtype=features.dtype, device=features.device)
        order = torch.randperm(len(labels), generator=rng.generator(rng.fold_in(key, epoch))).to(labels.device)
        for some in order.split(_BATCH):
            updates, state = optimiser.update(grad(rows, features[some], labels[some]), state, rows, now)
            rows = optim.apply_updates(rows, updates)
    return rows
