# %% [markdown]
# # 1. The problem
#
# A classifier is trained, put to use, and then somebody needs one more class. Training again on everything is the
# obvious way. It is not possible if the old images are gone: because of privacy, of storage, or because they were never
# yours. Class-incremental learning (CIL) is the question what to do then.
#
# This chapter says what the question is exactly, how answers are measured, and how images reach a model. Later chapters
# need nothing but basic PyTorch and what stands here.
#
# Every chapter has the same parts: an idea, its formula, the function of this package that is the formula, the test
# that checks the function, and a figure. Formulas are plain text, so that they read on a terminal too. All words of the
# field are in [a short list](../README.md#words), to look up.

# %% [markdown]
# ## Online learning
#
# *Online* learning means: examples come one after the other, each is used once, and the model is useful at any time.
# Some models can do that and forget nothing. The mean of the images of a class is one of them:
#
#     mean <- mean + (x - mean) / n        n: how many images of the class have come, x: the newest
#
# An image is predicted as the class with the nearest mean. Which order the images come in doesn't matter: the final
# means are the same. We take scikit-learn's digits, 8 x 8 pixels, as vectors of length 1, sorted so that all zeros come
# first, then all ones, and so on.

# %%
import torch

from cil_func import classifier, losses, metrics, optim
from cil_func.data import sources

digits = sources.load("digits")


def vectors(images):
    """Returns uint8 images (N, 8, 8, 3), grey, as rows of length 1, (N, 64)."""
    rows = torch.from_numpy(images[..., 0]).float().flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)


train, test = vectors(digits.train_images), vectors(digits.test_images)
train_labels, test_labels = torch.from_numpy(digits.train_targets), torch.from_numpy(digits.test_targets)
in_class_order = train_labels.argsort(stable=True)[::2]  # every second image is enough
marks = [*range(80, len(in_class_order), 80), len(in_class_order)]
print(f"{len(in_class_order)} training images, {len(test)} test images, classes {' '.join(digits.class_names)}")

# %% [markdown]
# The second learner is one linear layer, trained by gradient descent on the cross-entropy, one image at a time, in the
# same order. The third is the same layer with the images in random order. All are tested after every 80 images, on test
# images of all ten classes. (`torch.func.grad(f)` is the function that returns the gradient of f by its first argument.
# An optimiser is two functions, `init` and `update`, and nothing is changed in place. Chapters 2 and 6 have more.)

# %%
sgd = optim.sgd(momentum=0.0)
gradient = torch.func.grad(lambda params, x, y: losses.cross_entropy(classifier.apply(params, x), y))


def by_means(order):
    """Returns the running means, and their accuracy after every 80 images."""
    means, seen, curve = torch.zeros(10, 64), torch.zeros(10), []
    for count, row in enumerate(order.tolist(), 1):
        x, y = train[row], train_labels[row]
        seen[y] += 1
        means[y] += (x - means[y]) / seen[y]
        if count in marks:
            curve.append(metrics.accuracy(metrics.nme_scores(test, means), test_labels))
    return means, curve


def by_gradient(order):
    """Returns the linear layer, and its accuracy after every 80 images."""
    layer, curve = classifier.init(0, 64, 10), []
    opt_state, rate = sgd.init(layer), torch.tensor(1.0)
    for count, row in enumerate(order, 1):
        grads = gradient(layer, train[row][None], train_labels[row][None])
        updates, opt_state = sgd.update(grads, opt_state, layer, rate)
        layer = optim.apply_updates(layer, updates)
        if count in marks:
            curve.append(metrics.accuracy(classifier.apply(layer, test), test_labels))
    return layer, curve


shuffled = in_class_order[torch.randperm(len(in_class_order), generator=torch.Generator().manual_seed(0))]
means, of_means = by_means(in_class_order)
layer, of_layer = by_gradient(in_class_order)
_, of_shuffled = by_gradient(shuffled)
print(f"running means: {of_means[-1]:.1f} %")
print(f"linear layer, classes in order: {of_layer[-1]:.1f} %, in random order: {of_shuffled[-1]:.1f} %")

# %%
from cil_func.tutorial.drawings import protocol
from cil_func.tutorial.figures import show

curves = {
    "running class means, classes in order": of_means,
    "linear layer, classes in order": of_layer,
    "linear layer, random order": of_shuffled,
}
show(
    protocol.online(marks, curves),
    "online",
    "Three online learners. With the classes in order the means keep what they learned; the linear layer knows only what "
    "came last.",
)

# %% [markdown]
# With the classes in order the means only gain. The linear layer learns each class in turn and loses it again: it never
# knows more than the class or two that came last. Nothing is wrong with the layer, for in random order the same steps
# work. What fails is gradient descent on examples whose classes arrive one after the other. Neural networks are trained
# by gradient descent.
#
# | idea | function | test |
# | --- | --- | --- |
# | class means | `metrics.class_means` | `tests/test_metrics.py::test_class_means_by_hand` |
# | prediction by the nearest mean | `metrics.nme_scores` | `tests/test_metrics.py::test_nme_scores_by_hand` |
#
# NME is *nearest mean of exemplars*, the field's name for prediction by the nearest class mean, here and in results.
# `metrics.class_means` computes the means in one go. They are the running means, with their length made 1.

# %%
at_once = metrics.class_means(train[in_class_order], train_labels[in_class_order], 10)
online = means / means.norm(dim=1, keepdim=True)
assert torch.allclose(at_once.float(), online, atol=1e-5)
print(f"largest difference of any entry: {(at_once - online).abs().max():.0e}")

# %% [markdown]
# ## Class-incremental learning
#
# CIL is online in its classes and not in its images. Classes come in *phases* (also called tasks, steps or sessions):
#
# - Phase t brings a set of new classes, with all of their training images. These may be trained on for many epochs.
# - The sets of different phases have no class in common.
# - Images of earlier phases are gone, but for a small, fixed number (chapter 3).
# - After each phase, *one* model is tested on all classes seen so far. Nobody says which phase a test image is from.
#
# ### What it is not
#
# Two neighbours ask for less: one has no new classes, the other is given the phase at test time. A number from one
# setting says nothing about another ([van de Ven and Tolias 2019](https://arxiv.org/abs/1904.07734)):
#
# | setting | new in each phase | asked at test time |
# | --- | --- | --- |
# | domain-incremental | other images of the same classes (photographs, then drawings) | which class? |
# | task-incremental | classes | which class, *given the phase*? |
# | class-incremental | classes | which class of all seen? |
#
# The same layer from above, at its end, asked in two ways. Let a phase be two digits, 0 and 1, then 2 and 3, and so on.
# Told the phase, it only has to choose between two classes: the others are left out.

# %%
scores = classifier.apply(layer, test)
phase_of = torch.arange(10) // 2
possible = phase_of[test_labels][:, None] == phase_of[None, :]  # (N, 10): the two classes of the image's phase
as_task = metrics.accuracy(scores.masked_fill(~possible, float("-inf")), test_labels)
as_class = metrics.accuracy(scores, test_labels)
print(f"task-incremental question: {as_task:.1f} %    class-incremental question: {as_class:.1f} %")

# %% [markdown]
# This package answers the class-incremental question only. It has no domain- or task-incremental setting, no detection
# and no segmentation.
#
# ## The protocol
#
# Results can be compared only if phases and order are the same. Two protocols are common, written here for CIFAR-100
# with ten new classes a phase:
#
# - **B0**: all phases are equal. Ten phases of 10 classes.
# - **B50**: phase 0 has half of the classes. Then five phases of 10 classes.
#
# The first number is the *base*, the classes before the first increment; "B0 inc 10" and "B50 inc 10" are the usual
# names. `scenario.increments` cuts the phases; `initial_increment=0` means "as the others".

# %%
from cil_func.data import scenario

b0 = scenario.increments(100, initial_increment=0, increment=10)
b50 = scenario.increments(100, initial_increment=50, increment=10)
print(f"B0 inc 10:  {b0}\nB50 inc 10: {b50}")
show(
    protocol.phases({"B0 inc 10": b0, "B50 inc 10": b50}),
    "protocol",
    "The protocol of CIL on 100 classes. A row is a phase: its new classes, the old ones, and those still to come. "
    "After each phase the model is tested on everything to the left of the white.",
)

# %% [markdown]
# The **class order** says which classes come first. Results depend on it, so most of the field has one:
# the permutation that NumPy draws from seed 1993. (Some papers average over three others.) Labels are then renumbered: a class's label is how many classes came
# before it. Labels of the classes seen are 0, 1, 2, ... without a gap, and row c of the classifier is the c-th class.

# %%
order = scenario.class_order("canonical", num_classes=10, class_names=digits.class_names)
phases = scenario.build(digits.train_targets, digits.test_targets, order, initial_increment=0, increment=2)
for phase in phases.phases:
    print(f"phase {phase.index}: digits {phase.classes}, {len(phase.train_rows)} training images")
first = phases.phases[1].train_rows[0]
print(f"image {first} is a {digits.train_targets[first]}; its label is {phases.train_labels[first]}")

# %% [markdown]
# ## The measures
#
# *Top-1* accuracy is the share of images for which the class with the highest score is the right one; top-5 accepts it
# among the five highest. Accuracy without another word is top-1, in percent. Let a[i][j] be the accuracy after phase i on
# the test images of phase j's classes, j <= i, and top1[i] the one on all classes seen. There are P phases.
#
#     average incremental accuracy = mean over i of top1[i]                                      phase 0 included
#     last accuracy                = top1[P - 1]
#     forgetting                   = mean over j < P - 1 of ( max over j <= i < P - 1 of a[i][j]  -  a[P - 1][j] )
#
# The average rewards a good start and hides a bad end; the last accuracy is what you are left with. Report both.
# Forgetting alone says little: a model that never learned anything forgets nothing.
# Source of forgetting: [Chaudhry et al. 2018](https://arxiv.org/abs/1801.10112), equation 3.

# %%
matrix = [[99.0], [70.0, 95.0], [40.0, 80.0, 90.0]]
top1 = [99.0, 82.5, 70.0]  # phases of equal size: the means of the rows
average, forgotten = metrics.average_incremental_accuracy(top1), metrics.forgetting(matrix)
print(f"average {average:.1f}, last {top1[-1]:.1f}, forgetting ((99 - 40) + (95 - 80)) / 2 = {forgotten:.1f}")
show(
    protocol.measures(matrix, top1), "measures", "What the three measures read off an accuracy matrix of three phases."
)

# %% [markdown]
# | measure | function | test |
# | --- | --- | --- |
# | phases | `scenario.increments` | `tests/data/test_scenario.py::test_a_remainder_makes_a_smaller_last_phase` |
# | class order | `scenario.class_order` | `tests/data/test_scenario.py::test_canonical_is_the_fields_order` |
# | average | `metrics.average_incremental_accuracy` | `tests/test_metrics.py::test_average_incremental_accuracy_by_hand` |
# | forgetting | `metrics.forgetting` | `tests/test_metrics.py::test_forgetting_by_hand` |
#
# ## How images reach the model: the conventional way
#
# Most code of the field builds a phase's data from three libraries. **continuum** cuts the scenario. Its arguments are
# the ones that you have just met: `increment`, `initial_increment`, `class_order`, and a list of `transformations`.
# **timm** makes the transformation of one image. PyTorch's **sampler** chooses rows and its **loader** makes batches.

# %%
from continuum import ClassIncremental
from continuum.datasets import InMemoryDataset
from timm.data import create_transform
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms

to_model = create_transform(8, is_training=True, no_aug=True, mean=(0, 0, 0), std=(1, 1, 1))
augmenting = create_transform(8, is_training=True, hflip=0.0, color_jitter=0.0, auto_augment="rand-m9-mstd0.5-inc1")
for name, steps in (("plain", to_model), ("augmenting", augmenting)):
    print(f"{name:<10} {' > '.join(type(step).__name__ for step in steps.transforms)}")

theirs = ClassIncremental(
    InMemoryDataset(digits.train_images, digits.train_targets),
    increment=2,
    initial_increment=0,
    class_order=order,
    transformations=[transforms.ToTensor()],
)
tasks = list(theirs)
for task, phase in zip(tasks, phases.phases, strict=True):
    assert torch.equal(torch.from_numpy(task._y), phases.train_labels[phase.train_rows])
print(f"continuum: {len(tasks)} tasks; the labels of each are those of our phase")

# %% [markdown]
# With several processes, each has a `DistributedSampler`. It gives every process the same number of rows. If the images
# don't divide, it repeats some. In a test that is wrong: repeated images count twice.

# %%
loader = DataLoader(tasks[0], batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
images, labels, _ = next(iter(loader))
print(f"one batch: {tuple(images.shape)} {images.dtype}, from {images.min():.1f} to {images.max():.1f}")
given = [list(DistributedSampler(range(10), num_replicas=4, rank=rank, shuffle=False)) for rank in range(4)]
repeated = sum(map(len, given)) - len({row for rows in given for row in rows})
print(f"10 images on 4 processes: {given}: {repeated} of them twice")

# %% [markdown]
# ## ... and on the device
#
# The conventional loader handles images one by one, in Python, in processes of its own. This package keeps the images as
# one tensor of bytes on the device and takes a batch by its row numbers. Random changes are computed for many images at
# once, by numbers that are drawn beforehand. On one core RandAugment (a policy of random changes) is four times as fast
# that way as by timm and Pillow (`python -m benchmarks.augment`).
#
# There is no sampler: an epoch's order is a permutation that follows from a *random key*, an integer (chapter 7), and
# processes take parts of each batch. No image comes twice, and the order doesn't depend on how many processes share the
# work.

# %%
from cil_func.tutorial.drawings import pipelines

show(
    pipelines.pipelines({
        "the conventional way": [
            ("data set", "arrays or files", "CPU"),
            ("continuum", "scenario: a task\nfor each phase", "CPU"),
            ("sampler", "row numbers, in\nrandom order, of\nthis process", "CPU"),
            ("transforms (timm)", "crop, flip, policy,\nto float, normalise", "workers"),
            ("loader", "stacks a batch,\ncopies it to the\ndevice", "workers"),
            ("model", "float (B, C, H, W)", "device"),
        ],
        "this package": [
            ("Resident", "all images, uint8,\none tensor", "device"),
            ("scenario.build", "row numbers of\neach phase", "CPU"),
            ("epoch_chunks", "permutation from a\nkey; this process's\npart of each batch", "CPU"),
            ("augment", "crop, flip, policy,\nby numbers drawn\nfrom the key", "device"),
            ("normalise", "to float, inside the\ntraining step", "device"),
            ("model", "float (B, C, H, W)", "device"),
        ],
    }),
    "pipelines",
    "Two ways of an image from the data set to the model. The steps are the same. Conventionally an image is changed by "
    "itself on a processor; here a batch is changed at once, where the model computes.",
)  # fmt: skip

# %% [markdown]
# In code: `Resident` holds the images where they are used, and `batches.epoch_chunks` gives a few batches at a time, a
# *chunk*, since a large piece of work suits a device better than many small ones.

# %%
from functools import partial

from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.data.images import Resident

here = Resident(torch.from_numpy(digits.train_images))
rows = phases.phases[0].train_rows
epoch = partial(batches.epoch_chunks, here, phases.train_labels, rows, batch_size=32, key=7, device=here.device)
(chunk,) = epoch(augment=None)
print(f"{len(rows)} rows in batches of {chunk.sizes}: {tuple(chunk.batch.images.shape)} {chunk.batch.images.dtype}")

mine = sorted(image.numpy().tobytes() for image in chunk.batch.images)
conventional = sorted(image.tobytes() for image in tasks[0]._x)
assert mine == conventional
print("an epoch has the images of continuum's task, each once")

shifted = augment.make(backend="device", crop_padding=1)
(again,) = epoch(augment=shifted)
moved = (again.batch.images != chunk.batch.images).flatten(1).any(1).float().mean()
print(f"the same key and a crop from 10 x 10 pixels: the same order, {100 * moved:.0f} % of the images are changed")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | phases, as continuum cuts them | `scenario.build` | `tests/data/test_scenario.py::test_phases_are_continuums_where_increments_divide` |
# | an epoch's batches | `batches.epoch_chunks` | `tests/data/test_batches.py::test_every_row_comes_once_in_chunks_of_whole_batches` |
#
# ## Predict, then run
#
# **Question 1.** The crop above takes 8 x 8 pixels out of an image that was padded by 1 on each side, at a random place.
# It leaves an image as it is if it takes the middle. How large should the share of changed images be?

# %% answer
answer_1 = 100 * (1 - 1 / 9)  # three places down, three across, one of nine is the middle
print(f"expected {answer_1:.1f} %, found {100 * moved:.1f} % of {len(rows)} images")

# %% [markdown]
# **Question 2.** A method has top-1 of 99, 82.5 and 70 in three equal phases. Another has 90, 85 and 80. Which has the
# better average, which the better last accuracy, and which would you put to use?

# %% answer
averages = [metrics.average_incremental_accuracy(values) for values in (top1, [90.0, 85.0, 80.0])]
answer_2 = [averages[1] > averages[0], top1[-1] < 80.0]
print(f"averages {averages[0]:.1f} and {averages[1]:.1f}, last {top1[-1]:.0f} and 80: the second is ahead by both.")
print("It starts 9 points lower. What is put to use is the last model, so nothing speaks for the first one.")
