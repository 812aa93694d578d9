# %% [markdown]
# # 2. Forgetting
#
# A network that is trained on new classes alone forgets the old ones, and it does so within a few steps. McCloskey and
# Cohen called that *catastrophic interference* in 1989. This chapter shows it on digits, with a network that learns a
# phase in a fraction of a second, and takes it apart into two causes. Chapters 3 to 5 are remedies for them.
#
# The network has one hidden layer of 64 features. It is a *tree*, nested dicts of tensors, and everything that happens to it
# is a function: `small.init`, `small.apply`, `small.expand` and the training loop, which is this. (A `key` is an integer
# from which random numbers follow. The learning rate falls to 0 along half a cosine.)

# %%
import inspect

import torch

from cil_func import losses, metrics, rng
from cil_func.tutorial import small
from cil_func.tutorial.drawings import forgetting
from cil_func.tutorial.figures import show

print(inspect.getsource(small.fit))
data = small.digits()
for phase in data.phases:
    print(f"phase {phase.index}: digits {' and '.join(data.names[2 * phase.index : 2 * phase.index + 2])}")

# %% [markdown]
# `torch.func.grad(loss)` is the function that returns the loss's gradient with respect to its first argument, the
# params. There is no `.backward()`, and `fit` changes nothing: the params that it was given are still there afterwards.
#
# ## The two ends
#
# *Finetune* goes on with the network, expanded by the new classes, on the new images alone. *Joint* trains a new network
# on all images of all classes seen. The first forgets without restraint. The second breaks the rules, for it keeps all
# images; it says what could be reached. Most methods lie between them.

# %%
NUM_PHASES, PER_PHASE = len(data.phases), 2


def cross_entropy(params, images, labels):
    """Cross-entropy over all classes of the network."""
    return losses.cross_entropy(small.apply(params, images), labels)


def tested(params, num_seen):
    """Returns the logits and the labels of the test images of all classes seen."""
    seen = data.test_labels < num_seen
    return small.apply(params, data.test[seen]), data.test_labels[seen]


def finetune(phase, last):
    """Returns the network after a phase. last: the one after the phase before; None in phase 0."""
    params = small.init(0, PER_PHASE) if last is None else small.expand(last, phase.index, PER_PHASE)
    rows = phase.train_rows
    return small.fit(params, cross_entropy, data.train[rows], data.train_labels[rows], key=phase.index)


def joint(phase, last):
    """Returns a new network, trained on all classes seen."""
    num_seen = PER_PHASE * (phase.index + 1)
    seen = data.train_labels < num_seen
    params = small.init(rng.fold_in(0, "joint", phase.index), num_seen)
    return small.fit(params, cross_entropy, data.train[seen], data.train_labels[seen], key=phase.index, epochs=5)


def run(learn):
    """Runs all phases. Returns the networks after each of them."""
    networks = []
    for phase in data.phases:
        networks.append(learn(phase, networks[-1] if networks else None))
    return networks


networks = {"finetune": run(finetune), "joint": run(joint)}

# %% [markdown]
# Now the measures of chapter 1, and the accuracy of each class after each phase.

# %%
by_class = {}
for name, learned in networks.items():
    answers = [tested(params, PER_PHASE * (index + 1)) for index, params in enumerate(learned)]
    top1 = [metrics.accuracy(*answer) for answer in answers]
    matrix = [
        metrics.per_phase_accuracy(metrics.correct(*answer), answer[1] // PER_PHASE, index + 1)
        for index, answer in enumerate(answers)
    ]
    by_class[name] = [small.accuracies(*answer) for answer in answers]
    average, forgotten = metrics.average_incremental_accuracy(top1), metrics.forgetting(matrix)
    curve = " ".join(f"{value:5.1f}" for value in top1)
    print(f"{name:<9} top-1 {curve}   average {average:.1f}, last {top1[-1]:.1f}, forgetting {forgotten:.1f}")

show(
    forgetting.by_class(by_class, data.names),
    "forgetting",
    "Accuracy of each class after each phase. Finetune (left) knows the two newest digits only. Joint training (right) "
    "knows all.",
)

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | accuracy by phase | `metrics.per_phase_accuracy` | `tests/test_metrics.py::test_per_phase_accuracy_by_hand` |
# | forgetting | `metrics.forgetting` | `tests/test_metrics.py::test_forgetting_by_hand` |
#
# ## Is the knowledge gone?
#
# Look at the last network of finetune in two places. First at its classifier: compare only the logits of old classes, on
# their images. Then at its features, by the nearest class mean of chapter 1, with means of *all* training images, which
# finetune wouldn't have. The same with the features of joint, and of a network that was never trained.

# %%
num_old, num_seen = 8, 10
last = networks["finetune"][-1]
logits, labels = tested(last, num_seen)
old = labels < num_old
among_old = metrics.accuracy(logits[old][:, :num_old], labels[old])
among_all = metrics.accuracy(logits[old], labels[old])
share = 100 * metrics.new_share(logits.argmax(1), num_old)
print(f"share of predictions that name a new class: {share:.0f} %    (fair: {100 * (~old).float().mean():.0f} %)")
print(f"old images, compared with all classes: {among_all:.1f} %")
print(f"old images, compared with old classes: {among_old:.1f} %    (guessing: {100 / num_old:.1f} %)")


def by_features(params):
    """Returns the accuracy by the nearest class mean, with means of all training images."""
    means = metrics.class_means(small.features(params, data.train), data.train_labels, num_seen)
    return metrics.accuracy(metrics.nme_scores(small.features(params, data.test), means), data.test_labels)


for name, params in {"finetune": last, "joint": networks["joint"][-1], "never trained": small.init(5, 2)}.items():
    print(f"features of {name}: {by_features(params):.1f} % by the nearest class mean")

# %% [markdown]
# Every image is called new. Compared among themselves, the old rows of the classifier are no better than a guess. The
# features are worse than those of a network that was never trained: each phase kept what tells its own two digits apart
# and lost the rest. So both parts forget, and a lean to the new classes comes on top. That lean is worth measuring:
# `metrics.new_share` is the share of predictions that name a new class. Fair is their share of the test images.
#
# ## Cause 1: nothing supervises the old classes
#
# Let p = softmax(s) be the probabilities and y the label. The gradient of the cross-entropy by the logits is
#
#     d CE / d s_c = p_c - [c = y]
#
# For an old class c no image of the phase has y = c. So its gradient is p_c, which is above 0 *on every image*: each
# step pushes every old logit down, and no step pushes it up. Nothing tells the features what old images need either.

# %%
before = small.expand(networks["joint"][3], 4, PER_PHASE)  # a network that knows 8 digits, and has rows for two more
rows = data.phases[4].train_rows
new_images, new_labels = data.train[rows], data.train_labels[rows]
slopes = torch.func.grad(losses.cross_entropy)(small.apply(before, new_images), new_labels)  # (N, 10)
probabilities = small.apply(before, new_images).softmax(1)
assert torch.allclose(slopes[:, :num_old], probabilities[:, :num_old] / len(rows), atol=1e-7)
print(
    f"gradient of the 8 old logits, over {len(rows)} new images: all above 0: {bool((slopes[:, :num_old] > 0).all())}"
)

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | cross-entropy | `losses.cross_entropy` | `tests/test_losses.py::test_cross_entropy_and_gradient_equal_torchs` |
# | share of new classes | `metrics.new_share` | `tests/test_metrics.py::test_new_share_by_hand` |
#
# ## Cause 2: imbalance
#
# Suppose some old images were kept. Then old logits are pushed up as well, but seldom: a new class has 145 images and an
# old one five, say. The network learns how frequent classes are along with what they look like, and in the test all are
# equally frequent. We train the last phase from the same network that knows eight digits, with 0, 1, 2, ... images of
# each old class, and look at the share of new classes.
#
# What part of the error is imbalance? Cross-entropy makes the logits hold the logarithm of the class's frequency
# ([Menon et al. 2020](https://arxiv.org/abs/2007.07314)). So we subtract it again, which needs no training:
#
#     s_c  <-  s_c - log(number of training images of class c)

# %%
kept = [0, 1, 2, 5, 10, 20, 50, 140]
curves = {"share of new predictions": [], "accuracy on old classes": [], "the same, log-frequency subtracted": []}
overall = {"all classes": [], "all classes, subtracted": []}
for count in kept:
    of_old = [(data.train_labels == label).nonzero()[:count, 0] for label in range(num_old)]
    chosen = torch.cat([rows, *of_old])
    params = small.fit(before, cross_entropy, data.train[chosen], data.train_labels[chosen])
    logits, labels = tested(params, num_seen)
    frequency = torch.bincount(data.train_labels[chosen], minlength=num_seen).clamp(min=1)
    corrected = logits - frequency.log()
    curves["share of new predictions"].append(100 * metrics.new_share(logits.argmax(1), num_old))
    curves["accuracy on old classes"].append(metrics.accuracy(logits[old], labels[old]))
    curves["the same, log-frequency subtracted"].append(metrics.accuracy(corrected[old], labels[old]))
    overall["all classes"].append(metrics.accuracy(logits, labels))
    overall["all classes, subtracted"].append(metrics.accuracy(corrected, labels))

print(f"{'old images a class':<34} " + " ".join(f"{count:>5}" for count in kept))
for label, values in (curves | overall).items():
    print(f"{label:<34} " + " ".join(f"{value:5.1f}" for value in values))
show(
    forgetting.by_old_images(kept, curves, 100 * (~old).float().mean().item()),
    "causes",
    "The last phase, with more and more images of old classes. Without any, cause 1 rules. With a few, imbalance "
    "remains.",
)

# %% [markdown]
# Read the figure from the left.
#
# - Without old images nothing supervises the old classes. Their accuracy is 0, and subtracting brings nothing back.
# - With one or two images a class most old images are still called new. Subtracting the log-frequency, which knows
#   nothing of the images, brings many of them back. So much of what seems lost is not lost knowledge, it is imbalance.
# - With nearly as many images as a new class has there is nothing left to correct.
#
# The remedies of the next chapters follow from this. Against cause 1: keep some images (chapter 3), or keep what the
# old model says about new images (chapter 4). Against cause 2: correct the classifier (chapter 5).
#
# ## Predict, then run
#
# **Question 1.** In phase 1 the finetuned network gets 50 epochs instead of 10. Does more training help the old classes?

# %% answer
first, second = networks["finetune"][0], data.phases[1].train_rows
longer = small.fit(
    small.expand(first, 1, PER_PHASE), cross_entropy, data.train[second], data.train_labels[second], epochs=50
)
on_old = []
for params in (networks["finetune"][1], longer):
    logits, labels = tested(params, 4)
    on_old.append(metrics.accuracy(logits[labels < 2], labels[labels < 2]))
print(f"accuracy on the two old digits: {on_old[0]:.1f} % after 10 epochs, {on_old[1]:.1f} % after 50")
answer_1 = on_old[1] <= on_old[0]

# %% [markdown]
# **Question 2.** A memory has 5 images of each of 8 old classes, and 2 new classes have 145 images each. A network that
# can't see, whose logits are a bias and nothing else, is trained on them. What probability does it give to the two new
# classes together?

# %% answer
counts = torch.tensor([5] * 8 + [145] * 2)
labels = torch.repeat_interleave(torch.arange(10), counts)
bias = torch.zeros(10)
slope = torch.func.grad(lambda bias: losses.cross_entropy(bias.expand(len(labels), 10), labels))
for _ in range(2000):
    bias = bias - 2 * slope(bias)
answer_2 = bias.softmax(0)[8:].sum().item()
print(f"290 / 330 = {290 / 330:.3f}; trained: {answer_2:.3f}. The logits became log-frequencies, up to a constant:")
print(f"difference of a new and an old logit {bias[9] - bias[0]:.3f}, log(145 / 5) = {torch.tensor(29.0).log():.3f}")
