"""A cosine classifier with several proxies a class (Douillard et al. 2020, arXiv:2004.13513, section 3.2).

    rows = {"weight": (K, proxies, D)}, shared = {"eta": ()}
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from cil_func import rng
from cil_func.networks.head import Head
from cil_func.tree import Tree


def head(proxies: int) -> Head:
    """Returns the head of PODNet: a cosine classifier with `proxies` weight rows a class.

    A class's logit is the mean of its rows' similarities to the feature, weighted by their softmax, times a learned
    scale, see `logits`.
    """
    return Head(lambda key, width, count: draw(key, width, count, proxies), expand, scale, apply=logits)


def draw(key: int, width: int, count: int, proxies: int) -> Tree:
    """Returns {"weight": (count, proxies, width)} drawn from N(0, 1 / width), as the authors' code does.

    key: an int seed. width: of a feature. count: of classes.
    """
    return {"weight": torch.randn(count, proxies, width, generator=rng.generator(key)) / math.sqrt(width)}


def expand(rows: Tree, key: int, num_new: int) -> Tree:
    """Returns the rows with num_new classes more, drawn at random, which `centres` then sets to better values."""
    weight = rows["weight"]
    new = draw(key, weight.shape[2], num_new, weight.shape[1])["weight"].to(weight)
    return {"weight": torch.cat([weight, new])}


def scale(key: int, width: int, num_classes: int, num_phases: int) -> Tree:
    """Returns the shared parameters: {"eta": ()}, the learned scale, 1 at first. All arguments are ignored."""
    return {"eta": torch.ones(())}


def logits(rows: Tree, shared: Tree, features: torch.Tensor, classes: object) -> tuple[torch.Tensor, dict]:
    """Returns (logits (B, K), {}): eta y_c, y_c = sum_k softmax_k(a_ck) a_ck, with a_ck = 2 cos(f, w_ck) - 2.

    f: a row of features (B, D); w_ck: proxy k of class c. a_ck is minus the squared distance of the normalised feature
    and the normalised proxy. A feature or proxies of zeros give -2 eta. classes: ignored.
    """
    units = F.normalize(features, dim=1), F.normalize(rows["weight"], dim=2)
    similarity = 2 * torch.einsum("bd,ckd->bck", *units) - 2                        # (B, K, proxies)
    return shared["eta"] * (similarity.softmax(dim=2) * similarity).sum(2), {}


def centres(rows: Tree, features: torch.Tensor, labels: torch.Tensor, key: int) -> Tree:
    """Returns the rows with the proxies of each new class set to the k-means centres of its normalised features.

    rows: the new classes' rows are the last ones. features: (N, D) of the new classes' images. labels: (N,) int64. key:
    the seed of k-means. The centres are multiplied by the mean length of the old proxies. A class with fewer different
    images than proxies repeats its centres.
    """
    from sklearn.cluster import KMeans  # late: it costs a second
    from threadpoolctl import threadpool_limits

    weight, new = rows["weight"].clone(), sorted(set(labels.tolist()))
    length = weight[: new[0]].norm(dim=2).mean()
    for label in new:
        points = F.normalize(features[labels == label], dim=1).double().cpu().numpy()
        count = min(weight.shape[1], len(np.unique(points, axis=0)))
        seed = rng.fold_in(key, "centres", label) % 2**32
        with threadpool_limits(1):  # threads would add up in any order, and processes differ in the last bits
            found = KMeans(count, n_init=10, random_state=seed).fit(points).cluster_centers_
        repeated = torch.from_numpy(found[np.arange(weight.shape[1]) % count]).to(weight)
        weight[label] = repeated * length
    return {"weight": weight}
