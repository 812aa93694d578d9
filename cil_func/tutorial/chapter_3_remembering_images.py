# %% [markdown]
# # 3. Remembering images
#
# The plainest remedy against forgetting is to keep some images of the old classes and to train on them again, together
# with the new ones. The images that are kept are *exemplars*, the place where they are is the *memory* or *replay
# buffer*, and training on them is *rehearsal* or *replay*. Three questions arise: how many of each class, which, and
# chosen by what.
#
# ## How many: the quota
#
# The memory has a fixed size for all classes together. So each class may keep
#
#     quota = size // classes seen
#
# and gives up some of its exemplars whenever new classes arrive. (The other convention is a fixed number a class; then
# the memory grows. A published number means little without knowing which of the two was used.)

# %%
import itertools

import torch

from cil_func import herding, losses, memory, metrics
from cil_func.tutorial import small
from cil_func.tutorial.drawings import exemplars
from cil_func.tutorial.figures import show

data = small.digits()
SIZE, PER_PHASE = 50, 2
for seen in (2, 4, 6, 8, 10):
    each = memory.quota(seen, size=SIZE)
    print(f"{seen:>2} classes seen: {each:>2} exemplars each, {seen * each} in all")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | quota | `memory.quota` | `tests/test_memory.py::test_quota_by_hand` |
# | the budget is never exceeded | `memory.update` | `tests/test_memory.py::test_no_sequence_of_phases_exceeds_the_budget` |
#
# ## The replay buffer
#
# A memory is a dict from labels to row numbers of the training set. Images are not moved or copied. The rows of a class
# are in order of rank, best first. `memory.update` adds the new classes and cuts every class to its quota, from the end.
# So a phase is: train on new rows and `memory.rows(kept)`, then choose exemplars of the new classes, then update.
#
# On which images does a later phase train? Every batch is drawn from both together, so a class with 145 images is seen
# more often than one with 12. That is cause 2 of chapter 2, and replay alone does nothing about it.

# %%


def cross_entropy(params, images, labels):
    """Cross-entropy over all classes of the network."""
    return losses.cross_entropy(small.apply(params, images), labels)


def replay(selection, size):
    """Runs all phases with exemplars chosen by `selection`. Returns (top-1 of each phase, memory before each)."""
    kept, top1, before = {}, [], []
    params = small.init(0, PER_PHASE)
    for phase in data.phases:
        num_seen = PER_PHASE * (phase.index + 1)
        before.append(kept)
        if phase.index:
            params = small.expand(params, phase.index, PER_PHASE)
        rows = torch.cat([phase.train_rows, memory.rows(kept)])
        params = small.fit(params, cross_entropy, data.train[rows], data.train_labels[rows], key=phase.index)

        quota, chosen = memory.quota(num_seen, size=size), {}
        for label in range(num_seen - PER_PHASE, num_seen):
            of_class = (data.train_labels == label).nonzero()[:, 0]
            features = small.features(params, data.train[of_class])
            chosen[label] = of_class[memory.choose(features, quota, selection=selection, key=label)]
        kept = memory.update(kept, chosen, quota)
        seen = data.test_labels < num_seen
        top1.append(metrics.accuracy(small.apply(params, data.test[seen]), data.test_labels[seen]))
    return top1, before


runs = {size: replay("herding", size) for size in (0, 10, SIZE, 200)}
for size, (top1, _) in runs.items():
    print(f"{size:>3} exemplars: top-1 " + " ".join(f"{value:5.1f}" for value in top1))

# %%
show(
    exemplars.replay(
        [[len(kept[label]) for label in sorted(kept)] for kept in runs[SIZE][1]],
        [len(phase.train_rows) for phase in data.phases],
        data.names,
    ),
    "replay",
    "Replay with 50 exemplars. Left: each class gets fewer exemplars, and the memory stays as large. Right: beside "
    "the new images it is small.",
)

# %% [markdown]
# Size 0 is finetune. With 10 exemplars the first phases are remembered, and at the end, with one image of each class,
# nothing is. With 200, twenty of each class at the end, most is.
#
# ## Which: herding
#
# Random exemplars are a fair sample. *Herding* wants more: the mean of the chosen should be near the mean of *all* images
# of the class, in the space of features. It came into CIL with the method iCaRL, of which chapter 5 has the rest
# ([Rebuffi et al. 2017](https://arxiv.org/abs/1611.07725), algorithm 4). It is greedy: it takes one image after the other
# and never gives one back. Having chosen p_1 ... p_(k-1), it takes
#
#     p_k = argmin over i not chosen of || mu - (f_i + sum over j < k of f_(p_j)) / k ||      mu: mean of all f
#
# In two dimensions one can watch it. A point stands for the features of an image. The points lie on an arc, so that none
# is near the mean. (`normalize=False`, since the picture is of the points themselves. In a run features are made length
# 1 first.)

# %%
generator = torch.Generator().manual_seed(13)
angle = 3.9 * torch.rand(60, generator=generator) - 0.4
radius = 1 + 0.12 * torch.randn(60, generator=generator)
cloud = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
orders = {
    "herding": herding.herd(cloud, 6, normalize=False).tolist(),
    "a random choice": torch.randperm(60, generator=generator)[:6].tolist(),
}
show(
    exemplars.herding(cloud, orders),
    "herding",
    "Six of 60 points, numbered in the order of choice, and the way of their mean to the mean of all (star). Herding goes "
    "from side to side, so that its mean closes in. Right: how far the mean of the first 1, 2, ... is from the star.",
)

# %% [markdown]
# Each choice corrects the error that the choices before it have left. So *every* beginning of the list is a good memory.
# That matters: when the quota falls from 25 to 12, the first 12 are what herding of 12 would have chosen.

# %%
six, three = herding.herd(cloud, 6, normalize=False), herding.herd(cloud, 3, normalize=False)
assert torch.equal(six[:3], three)
print(f"the first three of six: {six[:3].tolist()}, three alone: {three.tolist()}")

# %% [markdown]
# ### Greedy against the best
#
# Greedy isn't best. On a small case every subset can be tried. Of 12 points we take 1 to 6, by herding and by looking at
# all subsets.

# %%
few = cloud[:12].double()


def distance(rows):
    """Returns how far the mean of the chosen rows is from the mean of all."""
    return (few[list(rows)].mean(0) - few.mean(0)).norm().item()


greedy_rows = herding.herd(few, 6, normalize=False).tolist()
best_rows = [min(itertools.combinations(range(12), k), key=distance) for k in range(1, 7)]
random_rows = torch.randperm(12, generator=generator).tolist()
curves = {
    "random": [distance(random_rows[:k]) for k in range(1, 7)],
    "herding": [distance(greedy_rows[:k]) for k in range(1, 7)],
    "best of all subsets": [distance(rows) for rows in best_rows],
}
for label, values in curves.items():
    print(f"{label:<20} " + " ".join(f"{value:.3f}" for value in values))
assert all(
    best <= greedy + 1e-12 for best, greedy in zip(curves["best of all subsets"], curves["herding"], strict=True)
)
print(f"best two: {best_rows[1]}, best three: {best_rows[2]}")
show(
    exemplars.distances(curves),
    "subsets",
    "Herding against the best of all subsets of 12 points, and against a random order. Herding is nearer "
    "than the random order with one to five points; the best subsets are nearer still from two points on.",
)

# %% [markdown]
# The best subsets have a second fault, beside their cost: the best three need not contain the best two. A memory that
# shrinks can't go from one to the other, since the images it would need are gone.
#
# ### The cost
#
# In step k herding needs one distance for each of the n - k + 1 rows that are not chosen yet. To choose m of n it needs
#
#     sum over k = 1 ... m of (n - k + 1)  =  n m - m (m - 1) / 2  =  O(n m)
#
# distances, each in time O(D) for features of D numbers. (`herding.herd` computes all n in each step, which is simpler, and
# leaves out the rows that are chosen: n m in all.) To look for the best subset is to compute one for each of the
# C(n, m) subsets. For a class of CIFAR-100, n = 500 and m = 20:

# %%
import math

n, m = 500, 20
distances = sum(n - k + 1 for k in range(1, m + 1))
assert distances == n * m - m * (m - 1) // 2
print(f"herding needs {distances:,} distances; there are {math.comb(n, m):.1e} subsets")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | herding | `herding.herd` | `tests/test_herding.py::test_one_dimension_by_hand` |
# | every beginning is a choice | `herding.herd` | `tests/test_herding.py::test_a_short_choice_is_the_start_of_a_long_one_without_replacement` |
# | choosing exemplars | `memory.choose` | `tests/test_memory.py::test_herding_is_herd` |
#
# ## By what: un-augmented images, eval mode
#
# Training sees an image *augmented*: cropped and mirrored at random. And batch norm in training mode normalises it by the
# other images of its batch. Selection does neither. When the training of a phase has ended and the classifier is aligned
# (chapter 5), exemplars are chosen by the features that the finished model gives to **un-augmented images in eval mode**.
# There are three reasons:
#
# - An augmented image is another draw each time. The choice would follow the draw, not the image that is kept. If several
#   processes choose, each by draws of its own, they keep different images: a fault that published code has had
#   ([DyTox issue 5](https://github.com/arthurdouillard/dytox/issues/5)).
# - In training mode the features of an image depend on its neighbours in the batch. In eval mode batch norm uses its
#   running statistics and dropout is off, so an image has one feature vector, in any batch.
# - Test images are un-augmented and seen in eval mode too. The prediction by the nearest mean (chapter 1) compares their
#   features with the mean of the exemplars' features, so both have to be made in the same way.
#
# What is kept is the un-augmented image. It is augmented anew each time that it is rehearsed. In the package,
# `training.phase.choose` does this. How much the first reason matters: herding takes 5 images of each digit, by the images
# as they are, and by the same images moved by up to one pixel, each in a direction of its own.

# %%
everything = small.fit(small.init(1, 10), cross_entropy, data.train, data.train_labels, epochs=5)
features, tested = small.features(everything, data.train), small.features(everything, data.test)


def moved(images, key):
    """Returns images (N, 64), each moved by -1, 0 or 1 pixels in both directions."""
    shifts = torch.randint(-1, 2, (len(images), 2), generator=torch.Generator().manual_seed(key)).tolist()
    shifted = [image.reshape(8, 8).roll(by, (0, 1)) for image, by in zip(images, shifts, strict=True)]
    return torch.stack(shifted).flatten(1)


by_class = [(data.train_labels == label).nonzero()[:, 0] for label in range(10)]
plain, first, second = (
    [rows[herding.herd(given[rows], 5)] for rows in by_class]
    for given in (features, *(small.features(everything, moved(data.train, key)) for key in (0, 1)))
)
for name, one, other in (("un-augmented and augmented", plain, first), ("two draws, both augmented", first, second)):
    same = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(one, other, strict=True))
    print(f"{name}: {same} of 50 exemplars are the same")
for name, chosen in (("un-augmented", plain), ("augmented", first)):
    gaps = [(features[a].mean(0) - features[rows].mean(0)).norm() for a, rows in zip(chosen, by_class, strict=True)]
    print(f"chosen by {name} images: their mean is {sum(gaps) / 10:.2f} from the class's mean, as it is at test time")

# %% [markdown]
# ## Is it worth it?
#
# The mean is what herding cares for, and the prediction by the nearest mean (chapter 1) depends on nothing else. So
# there it should help. We take the features above, and means of 1, 2, 5, ... exemplars, chosen by herding, and at random
# by ten *random keys*, integers from which a draw follows (chapter 7).

# %%


def nearest_mean(count, selection, key):
    """Returns the accuracy by the nearest mean of `count` exemplars of each class."""
    kept = {}
    for label, rows in enumerate(by_class):
        kept[label] = rows[memory.choose(features[rows], count, selection=selection, key=100 * key + label)]
    rows = memory.rows(kept)
    means = metrics.class_means(features[rows], data.train_labels[rows], 10)
    return metrics.accuracy(metrics.nme_scores(tested, means), data.test_labels)


counts = [1, 2, 5, 10, 20]
by_mean = {
    "herding": [[nearest_mean(count, "herding", 0)] for count in counts],
    "random, ten draws": [[nearest_mean(count, "random", key) for key in range(10)] for count in counts],
}
of_all = metrics.accuracy(
    metrics.nme_scores(tested, metrics.class_means(features, data.train_labels, 10)), data.test_labels
)
for label, values in by_mean.items():
    print(
        f"{label:<18} "
        + "  ".join(f"{count}: {sum(each) / len(each):.1f}" for count, each in zip(counts, values, strict=True))
    )
print(f"means of all images: {of_all:.1f}")
show(
    exemplars.nearest_mean(counts, by_mean, of_all),
    "nearest_mean",
    "Accuracy by the nearest mean of few exemplars. One herded image a class does what takes several random ones; the "
    "band is the range of ten draws.",
)

# %% [markdown]
# For *training* on the exemplars the matter is less clear, for herded images are the typical ones and say little about
# the borders of a class. Here is replay with the same 50 exemplars chosen in three ways, the last being those closest to
# the mean. One run each, so differences of a few points mean nothing.

# %%
for selection in memory.SELECTIONS:
    curve, _ = runs[SIZE] if selection == "herding" else replay(selection, SIZE)
    print(f"{selection:<8} top-1 " + " ".join(f"{value:5.1f}" for value in curve))

# %% [markdown]
# In the last phase random exemplars are ahead here, and the closest ones, which are all alike, are behind.
#
# ## Predict, then run
#
# **Question 1.** A memory of 2000 exemplars has 50 classes. Ten more arrive. How many exemplars does an old class lose?
# How many of the 2000 places stay empty?

# %% answer
before_new, after_new = (memory.quota(classes, size=2000) for classes in (50, 60))
answer_1 = (before_new - after_new, 2000 - 60 * after_new)
print(f"{before_new} became {after_new}: a class loses {answer_1[0]}; {answer_1[1]} places stay empty")

# %% [markdown]
# **Question 2.** Five points on a line: 0, 1, 4, 7 and 10. Their mean is 4.4. Which two does herding choose, in order, and
# which two are best?

# %% answer
line = torch.tensor([[0.0], [1.0], [4.0], [7.0], [10.0]])
chosen = herding.herd(line, 2, normalize=False)
pairs = {pair: abs(line[list(pair)].mean().item() - 4.4) for pair in itertools.combinations(range(5), 2)}
best = min(pairs, key=pairs.__getitem__)
answer_2 = (line[chosen, 0].tolist(), line[list(best), 0].tolist())
print(
    f"herding: {answer_2[0]}, off by {pairs[tuple(sorted(chosen.tolist()))]:.1f}; best: {answer_2[1]}, off by {pairs[best]:.1f}"
)
