# %% [markdown]
# # 5. The classifier
#
# So far the model was one thing. Now take it apart. A **feature extractor** turns an image into D numbers, its
# *features*. A **classifier** turns features into one logit a class. Where a model forgets is easier to see once the two
# are separate. In this chapter you see why new classes win too often, what aligning does about it, and when it doesn't
# help.
#
#     f = backbone(image)             (D,)
#     logit_c = w_c . f + b_c         one row w_c and one bias b_c for each class c

# %%
import torch

from cil_func import classifier, losses, memory, metrics, model, tree
from cil_func.tutorial.drawings import rows as drawings
from cil_func.tutorial.figures import show

params, state = model.init(0, "resnet20", 4)
images = torch.zeros(2, 3, 8, 8)
logits, features, _ = model.apply(params, state, images, train=False)
assert torch.equal(logits, classifier.apply(params["classifier"], features))
print({part: tree.size(leaves) for part, leaves in params.items()}, "numbers")
print(f"features {tuple(features.shape)}, logits {tuple(logits.shape)}")
show(
    drawings.decoupled(4, 3),
    "decoupled",
    "Feature extractor and classifier. The first is kept from phase to phase; the second gets rows for new classes.",
)

# %% [markdown]
# Nearly all numbers are in the feature extractor. But the classifier is where old and new classes meet: each prediction
# compares rows.
#
# ## Prototypes
#
# You can classify without a trained classifier. Give each class a **prototype**, the mean of its features, and answer
# with the nearest one. iCaRL does that with the means of the exemplars
# ([Rebuffi et al. 2017](https://arxiv.org/abs/1611.07725)). Features and means are scaled to length 1:
#
#     m_c = mean over the class's exemplars of f / |f|,  scaled to |m_c| = 1       score_c = -|f / |f| - m_c|^2
#
# Here iCaRL trains its network with CE and KD, as chapter 4 and as published comparisons do (the paper has a sigmoid for
# each class, `method.name=icarl-bce`), and has no use for the classifier's rows at the end. A finished run of it therefore saves the class means, m_c for each class, in the model's file beside the weights; the exemplars
# are not needed to predict.
#
# The nearest mean is a linear classifier too. Expand the square: |f|^2 is the same for all classes and doesn't matter, so
# the nearest mean wins where `2 m_c . f - |m_c|^2` is largest. Its rows are `2 m_c`: **all of the same length**.

# %%
generator = torch.Generator().manual_seed(0)
some = torch.randn(60, 8, generator=generator, dtype=torch.float64)
labels = torch.arange(60) % 3
means = metrics.class_means(some, labels, 3)
as_rows = {"weight": 2 * means, "bias": -means.square().sum(1)}
units = torch.nn.functional.normalize(some)
same = metrics.nme_scores(some, means).argmax(1) == classifier.apply(as_rows, units).argmax(1)
print(f"nearest mean and linear classifier agree on {same.sum()} of {len(same)} rows")
print(f"lengths of the linear classifier's rows: {[round(each, 6) for each in classifier.norms(as_rows).tolist()]}")

# %% [markdown]
# ## The expanding classifier
#
# When classes arrive, `classifier.expand` adds rows. Old rows stay as they are, to the bit. New rows are drawn as a new
# `torch.nn.Linear` would draw them.

# %%
old = classifier.init(0, 8, 4)
new = classifier.expand(old, 1, 3)
assert torch.equal(new["weight"][:4], old["weight"]) and torch.equal(new["bias"][:4], old["bias"])
print(f"{tuple(old['weight'].shape)} becomes {tuple(new['weight'].shape)}")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | classifier | `classifier.apply` | `tests/test_classifier.py::test_apply_is_linear` |
# | prototypes | `metrics.nme_scores` | `tests/test_metrics.py::test_nme_is_scikit_learns_nearest_centroid_on_unit_rows` |
# | growth | `classifier.expand` | `tests/test_classifier.py::test_expand_keeps_old_rows_and_draws_new_ones_as_linear_does` |
#
# ## Why new rows grow
#
# Train on the new classes' images and on a few exemplars. Let p_ic be the predicted probability of class c for image i.
# Gradient descent on the cross-entropy moves row c along
#
#     sum over images i of class c of (1 - p_ic) f_i        pull: towards its own images
#     - sum over the other images i of p_ic f_i             push: away from all others
#
# Features behind a ReLU are never negative, so they all point roughly the same way. A pull makes a row longer along
# that way, and a push makes it shorter. A new class has a hundred images that pull. An old class has a few
# exemplars that pull, and every new image that looks like it pushes.
#
# Here is a run of our own: digits, four classes, then three, then three; a network of two layers; memory for 40
# images; the loss is the sum, CE + 2 KD (chapter 4). `whole_runs.learn` runs `experiment.run`, the package's loop, and
# keeps what it returns: `made`, what the run learns from (data, network, functions); `ends`, the model (`learned`) and
# the exemplars at the end of each phase; `results`, what `results.json` has. `made.forward.features` gives the features
# of images, un-augmented and in eval mode.

# %%
from cil_func.tutorial import whole_runs

DISTILLED = ("method.name=wa", "method.kd_combination=sum", "method.kd_weight=2")
few = whole_runs.learn(*DISTILLED, "memory.size=40", "run.seed=1")
made, first, second = few.made, few.ends[0], few.made.scenario.phases[1]  # where phase 0 ended, and phase 1
trained_on = torch.cat([second.train_rows, memory.rows(first.exemplars)])
labels = made.scenario.train_labels[trained_on]
seen = made.forward.features(first.learned, made.train_images, trained_on, when="phase 1")  # (N, D)
start = classifier.expand(first.learned.params["classifier"], 7, 3)  # 4 trained rows, 3 new ones

p = classifier.apply(start, seen).softmax(1)
own = torch.nn.functional.one_hot(labels, 7).double()  # (N, 7)
along = seen @ torch.nn.functional.normalize(seen.mean(0), dim=0)  # (N,): how far each image reaches along the mean
pull, push = ((own * (1 - p)).T @ along / len(labels), ((1 - own) * p).T @ along / len(labels))

gradient = torch.func.grad(lambda head: losses.cross_entropy(classifier.apply(head, seen), labels))(start)
by_torch = -gradient["weight"] @ torch.nn.functional.normalize(seen.mean(0), dim=0)
torch.testing.assert_close(pull - push, by_torch)
for name, part in (("old", slice(0, 4)), ("new", slice(4, 7))):
    counts = torch.bincount(labels)[part].tolist()
    print(f"{name} classes: images {counts}, pull - push {(pull - push)[part].mean():+.2f} on average")
show(
    drawings.pull_and_push(pull.tolist(), push.tolist(), 4),
    "pull",
    "The first step of phase 1: how far one step at rate 1 moves each row along the mean feature, up by its own images "
    "and down by all others. What the few exemplars of an old class do is too little to be seen.",
)

# %% [markdown]
# The old classes are not pushed alike. A push is as strong as the probability p_ic that the network gives to class c on
# images of other classes: the old row that new images resemble most is pushed most, and a row that none of them
# resembles hardly at all.

# %% [markdown]
# ## Aligning
#
# WA, *weight aligning* ([Zhao et al. 2020](https://arxiv.org/abs/1911.07053)), rescales the new rows after each phase:
#
#     gamma = mean length of old rows / mean length of new rows          new rows <- gamma * new rows
#
# Old rows and all biases stay. By hand: old rows of length 5 and 5, new rows of length 10 and 10, gamma = 0.5.

# %%
by_hand = {"weight": torch.tensor([[3.0, 4.0], [5.0, 0.0], [6.0, 8.0], [0.0, 10.0]]), "bias": torch.ones(4)}
aligned, gamma = classifier.align(by_hand, 2)
print(f"gamma {gamma:.2f}, lengths {classifier.norms(by_hand).tolist()} become {classifier.norms(aligned).tolist()}")


def table(run):
    """Prints what aligning did in each phase of a run."""
    print("phase  gamma  accuracy before -> after  share of new classes before -> after (fair), all in percent")
    for row in run.results["phases"][1:]:
        before, after, fair = (100 * row[key] for key in ("new_share_before_align", "new_share", "fair_share"))
        top1 = f"{row['top1_before_align']:.1f} -> {row['top1']:.1f}"
        print(f"{row['phase']:>5}  {row['gamma']:.2f}   {top1}             {before:.0f} -> {after:.0f} ({fair:.0f})")


table(few)

# %% [markdown]
# Here gamma is below 1: new rows had become longer. More predictions named a new class than should; after aligning
# fewer do, and the accuracy is higher. In phase 2 it isn't solved: the share is still above the fair one. Aligning
# corrects lengths. It can't correct features that have drifted, or rows that point the wrong way.
#
# ## Where aligning doesn't help
#
# The second run keeps 100 exemplars and weighs its two losses by the *convex* rule, (1 - lambda) CE + lambda KD
# with lambda = n / (n + m). Cross-entropy, which makes new rows grow, then has a small weight: 0.3 in the last phase. And there
# are 25 exemplars of an old class in phase 1, and 14 in phase 2.

# %%
CONVEX = ("method.name=wa", "method.kd_combination=convex", "method.kd_weight=dynamic")
many = whole_runs.learn(*CONVEX, "memory.size=100", "run.seed=1")
table(many)


def lengths(run):
    """Returns the lengths of the rows of the last phase, as `drawings.norms` takes them."""
    found = [event for event in run.events if event["event"] == "phase_end"][-1]["norms"]
    return {"before": found["before_align"], "after": found["after_align"], "num_old": 7}


titles = {"40 exemplars, sum: gamma below 1": few, "100 exemplars, convex: gamma above 1": many}
show(
    drawings.norms({title: lengths(run) for title, run in titles.items()}),
    "norms",
    "Lengths of the classifier's rows in the last phase: a bar is the length after aligning, a diamond the one before. "
    "Left: new rows were longer than old ones, and are shortened. Right: they were shorter, and are made longer.",
)

# %%
show(
    drawings.shares({title: run.results["phases"] for title, run in titles.items()}),
    "shares",
    "The share of predictions that name a class of the newest phase, before and after aligning; below it the accuracy. "
    "Left: aligning brings the share nearer to the fair one. Right: in phase 2 it takes the share further away.",
)

# %% [markdown]
# In the second run the new rows are *shorter* than the old ones, and yet their share is above the fair one. Gamma is
# above 1, so aligning lengthens rows that win too often as it is, and the accuracy falls. Length is a symptom of the
# bias towards new classes, not the bias itself.
#
# What to do then? A run says after each phase what aligning did, also when it hurt: gamma, the share before and after, and
# the accuracy before and after (`top1_before_align`, `new_share_before_align` in `results.json`). But these are measured
# on the test images, and a choice that is made by test images makes the reported accuracy too good. So decide by other
# images:
#
# 1. Keep some training images out, `--set data.validation=0.1`: a tenth of each class is kept from training and memory,
#    and measured as the test images are. With `--set data.tests_on=validation` the test images stay unseen.
# 2. Compare the accuracy before and after aligning on them, over several seeds, in the phases that you care for.
# 3. If aligning hurts in most, switch it off for the final run, `--set method.align=false`, or change what made new rows
#    short: the sum in place of the convex rule, or more epochs.
# 4. Report the final run, which has not been chosen by its test images.
#
# Without such images two signs need no label at all: gamma above 1, and a share of new classes that is above the fair one
# and rises by aligning. (On CIFAR-100 aligning helps in every phase of our recorded run: chapter 8.)
#
# | idea | function | test |
# | --- | --- | --- |
# | length of rows | `classifier.norms` | `tests/test_classifier.py::test_norms_are_lengths_of_rows` |
# | aligning | `classifier.align` | `tests/test_classifier.py::test_align_by_hand` |
# | share of predictions | `metrics.new_share` | `tests/test_metrics.py::test_new_share_by_hand` |
#
# ## Calibration
#
# The softmax of the logits is meant as a probability. A model is **calibrated** if of all predictions that it makes with
# confidence 0.8, 80 % are right. Sort predictions into bins B_m by confidence and compare:
#
#     ECE = sum over bins m of |B_m| / N * | share of B_m that is right - mean confidence of B_m |
#
# Networks are usually too confident ([Guo et al. 2017](https://arxiv.org/abs/1706.04599)). The usual repair is one
# number: a **temperature** T, by which logits are divided, fitted on images that were not trained on. Here half of the
# test images serve to fit it, the others to judge. (For a finished run `python -m cil_func calibrate` does it.)

# %%
truth, finished = made.scenario.test_labels, few.ends[-1].learned
outputs = made.forward.features(finished, made.test_images, torch.arange(len(truth)), when="the end")
logits = classifier.apply(finished.params["classifier"], outputs)
fitted, judged = slice(0, None, 2), slice(1, None, 2)
candidates = torch.logspace(-1, 1, 81)
T = min(candidates, key=lambda T: losses.cross_entropy(logits[fitted] / T, truth[fitted]))


def calibration(logits):
    """Returns cross-entropy, calibration error in percent, and bins, on the images that judge."""
    confidence, answer = logits[judged].softmax(1).max(1)
    right = answer == truth[judged]
    error = metrics.expected_calibration_error(confidence, right, bins=8)
    entropy = losses.cross_entropy(logits[judged], truth[judged])
    return entropy, 100 * error, metrics.calibration_bins(confidence, right, bins=8)


for name, by in (("T = 1", torch.tensor(1.0)), (f"T = {T:.2f}", T)):
    entropy, error, _ = calibration(logits / by)
    print(f"{name:<8} cross-entropy {entropy:.2f}, ECE {error:.1f} %")
raw_bins, scaled_bins = calibration(logits)[2], calibration(logits / T)[2]
show(
    drawings.reliability({"T = 1": raw_bins, "T fitted": scaled_bins}),
    "reliability",
    "Confidence and accuracy, with the number of images of each bin. Below the dotted line a model is more confident "
    "than it is right.",
)

# %% [markdown]
# The temperature lowers the cross-entropy, for which it was fitted. The calibration error doesn't fall: some bins come
# nearer to the line, others leave it. One number scales all confidences alike, so it can't repair errors that differ
# from class to class. (And with 180 images in 8 bins the error is a rough number.) Judge a repair on images that it was
# not fitted on, as here.
#
# A temperature changes no prediction: dividing all logits by one number keeps their order. Aligning does change
# predictions. The method `bic` stands between the two: it fits a factor and a shift for the *new* logits on held-out
# images (`cil_func/methods/bic.py`).
#
# | idea | function | test |
# | --- | --- | --- |
# | calibration error | `metrics.expected_calibration_error` | `tests/test_metrics.py::test_calibration_by_hand` |
#
# ## Predict, then run
#
# **Question 1.** Aligning multiplies the rows of the new classes by one number. Take the images of old classes and ask
# only which *old* class is likeliest. For how many of them does aligning change the answer?

# %% answer
undone = finished.params["classifier"]["weight"].clone()
undone[7:] /= few.results["phases"][-1]["gamma"]
before = classifier.apply({**finished.params["classifier"], "weight": undone}, outputs)
answer_1 = int((before[:, :7].argmax(1) != logits[:, :7].argmax(1)).sum())
print(f"{answer_1} of {len(truth)}: old logits are the same numbers. Aligning decides between old and new only.")

# %% [markdown]
# **Question 2.** A classifier has old rows of lengths 2 and 4 and one new row of length 6. What is gamma, and which of
# the three rows is the longest after aligning?

# %% answer
aligned, gamma = classifier.align({"weight": torch.tensor([[2.0, 0], [0, 4.0], [6.0, 0]]), "bias": torch.zeros(3)}, 1)
answer_2 = (round(gamma.item(), 3), int(classifier.norms(aligned).argmax()))
print(f"gamma = 3 / 6 = {answer_2[0]}. Lengths {classifier.norms(aligned).tolist()}: row {answer_2[1]}, an old one.")
