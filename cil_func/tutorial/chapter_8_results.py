# %% [markdown]
# # 8. Results and what they mean
#
# You can now train a model phase by phase. This chapter reads results: which number to look at, how sure it is, what
# published numbers hide, and how to measure an idea of your own.
#
# ## Methods, with their spread
#
# Six methods on the digits, each with three seeds. Each row has the mean over the seeds: the average incremental accuracy
# and the last accuracy of chapter 1, in percent, then the lowest and the highest last accuracy of a seed, and more.
# The runs are those of chapters 5 and 7, but of 40 epochs a phase: a network of two layers, phases of 4, 3 and 3 classes,
# 20 exemplars. `python -m cil_func.tutorial.recorded_runs` trained these 18 runs, and trains them again in about three
# minutes. Epochs and weight of the distillation were chosen by trying a dozen of each on these test images, so the table
# shows what can happen, not how good the methods are; how to choose without that is below.

# %%
from statistics import fmean

from cil_func.tutorial import recorded_runs
from cil_func.tutorial.drawings import results as drawings
from cil_func.tutorial.figures import show

methods = recorded_runs.load()
print("method     average   last  (lowest .. highest)   forgetting   by nearest mean, last")
for name, runs in methods.items():
    last = [run["last_accuracy"] for run in runs]
    average, forgetting = (fmean(run[key] for run in runs) for key in ("average_incremental_accuracy", "forgetting"))
    nearest = [run["nme_top1"][-1] for run in runs]
    shown = "-" if None in nearest else f"{fmean(nearest):.1f}"
    spread = f"({min(last):.1f} .. {max(last):.1f})"
    print(f"{name:<9} {average:>8.1f} {fmean(last):>6.1f}  {spread:<20} {forgetting:>12.1f} {shown:>14}")
aligned = [(run["top1_before_align"][-1], run["top1"][-1]) for run in methods["wa"]]
print("aligning wa in the last phase: " + ", ".join(f"{before:.1f} -> {after:.1f}" for before, after in aligned))
show(
    drawings.curves(methods, [4, 7, 10]),
    "methods",
    "Accuracy on all classes seen: in each panel one method, the mean of three seeds and a band from the lowest to the "
    "highest seed; grey: the other methods. Where no band is seen, the seeds lie within a point.",
)

# %% [markdown]
# These are not the numbers of the README's figure and of the digits' table in `benchmarks/README.md`. Those are of the
# default run, `train.py` without flags. It has the same images, loss and number of exemplars, but a convolutional network,
# ResNet-20, and five phases of two classes; there a seed takes minutes, here seconds. Numbers of different networks and
# phases can't be compared with each other. The picture is the same: WA is far above replay, and aligning helps.

# %%
import json

RECORDS = recorded_runs.FILE.parents[2] / "benchmarks/results"  # with the repository, not with an installed package
if (RECORDS / "digits-cpu.json").exists():
    figures = json.loads((RECORDS / "digits-cpu.json").read_text())["figures"]
    print("the default run, ResNet-20, five phases of two classes: average / last")
    for name in ("wa", "replay"):
        print(f"{name:<7} {figures[f'{name}_average']:.1f} / {figures[f'{name}_last']:.1f}")

# %% [markdown]
# What to read in them:
#
# - `joint` trains on all images each time: the upper bound. `finetune` sees the new ones alone: the lower bound. Report
#   a method between its two bounds, or its number means little. Both are of a recipe and not strict: methods that need
#   another one can fall below or rise above them (`benchmarks/README.md` has such rows).
# - The bands of `wa` and `lwf` are wide. Where bands overlap, three seeds don't tell which method is better. One seed
#   tells even less.
#   `python -m cil_func sweep` trains several seeds and class orders and compares methods pair by pair.
# - `wa` is `replay` with a teacher and aligning, and `icarl` is `replay` with a teacher and the nearest mean.
# - `icarl` answers by the nearest mean of exemplars, the others by the classifier. Look at the last column: with *this*
#   little memory the nearest mean is better for `wa` and `replay` too. Features forget less than classifiers do.
# - `lwf`, chapter 4's teacher without images, is far above `finetune` here, and in chapter 4 it was not. Another choice
#   makes the difference. In chapter 4 the cross-entropy of a later phase was over all classes seen, and pushed the old
#   logits down. LwF as published takes it over the new classes alone (`method.lwf_classes=new`), so old rows get no
#   gradient but the teacher's. On CIFAR-100, ten phases of ten, that is little: LwF has 43.4 / 23.2, replay 59.1 / 40.9
#   and WA 67.0 / 52.2 ([survey](https://arxiv.org/abs/2302.03648), and the table below). A small problem doesn't rank
#   methods.
#
# ## Which accuracy?
#
# | number | where | says |
# | --- | --- | --- |
# | average incremental accuracy | `average_incremental_accuracy` | the whole way, phase 0 included |
# | last accuracy | `last_accuracy` | the model that you are left with |
# | by nearest mean | `nme_top1` | what the features hold; some papers report this one. NME: nearest mean of exemplars |
# | on old and new classes | `old_top1`, `new_top1` | which side pays |
# | before aligning | `top1_before_align` | what aligning did |
# | class by class | `balanced_top1` | the same weight for each class |
#
# The names are keys of `results.json`. Accuracies there are in percent; `new_share` is a fraction from 0 to 1.
#
# Papers mix the first three. PyCIL's curve for iCaRL is by the nearest mean, its others are by the classifier; its
# table of PODNet (a method that also distils feature maps) is by the nearest mean ([PyCIL issues 44](https://github.com/G-U-N/PyCIL/issues/44) and
# [50](https://github.com/G-U-N/PyCIL/issues/50)).
#
# ## Five recipes called WA
#
# The name of a method doesn't fix its numbers. Five recipes in published text and code call themselves WA. H is the soft
# cross-entropy with temperature T, KL the divergence, n old and m new classes:
#
# | recipe | loss in later phases | clips weights | `kd_combination` | `kd_weight` |
# | --- | --- | --- | --- | --- |
# | 1. another tutorial about WA, its text | (1 - l) CE + l H, l = n / (n + m) | no | `"convex"` | `"dynamic"` |
# | 2. [PyCIL](https://github.com/G-U-N/PyCIL) today | the same | no | `"convex"` | `"dynamic"` |
# | 3. PyCIL until February 2023, and the [survey](https://arxiv.org/abs/2302.03648) with WA's published curves | CE + 2 H, T = 2 | no | `"sum"` | `2` |
# | 4. the other tutorial, its code | CE + 0.5 T^2 KL, T = 2 | no | `"sum"` | `2` |
# | 5. [DER](https://github.com/Rhyssiyan/DER-ClassIL.pytorch)'s authors | (1 - l) CE + l KL | yes: `clip_weights = true` | `"convex"` | `"dynamic"` |
#
# The last two columns are keys of the table `[method]`. By chapter 4's names, recipes 1 and 2 are the convex rule, which is
# also the formula of WA's paper, and 3 and 4 are the sum, CE + 2 KD, which `train.py` has without flags. Recipe 5 is the
# convex rule, and sets negative weights of the classifier to 0 after each step. The "other tutorial" is not this one: a
# public one, whose text and code differ.
#
# Published *curves* of WA come from the third one. The third and the fourth are the same training in disguise, for they
# have the same gradient: KL is H minus the teacher's entropy, which doesn't depend on the student, and 0.5 T^2 = 2 for
# T = 2. Set `kd_combination` to "sum" and `kd_weight` to 2 for both.

# %%
import torch

from cil_func import losses

generator = torch.Generator().manual_seed(0)
student, taught = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
T = 2.0


def kl(student):
    p, log_q = (taught / T).softmax(1), (student / T).log_softmax(1)
    return (p * (p.log() - log_q)).sum(1).mean()


third = torch.func.grad(lambda s: 2 * losses.distillation(s, taught, temperature=T))(student)
fourth = torch.func.grad(lambda s: 0.5 * T**2 * kl(s))(student)
torch.testing.assert_close(third, fourth)
print("2 H and 0.5 T^2 KL: the same gradient within rounding")

# %% [markdown]
# ## What else moves a published number
#
# CIFAR-100, 2000 exemplars, ResNet-32, top-1 in percent, average / last. Read off the published figure of PyCIL, the
# library, within 0.4. DER and FOSTER are methods that add a backbone in each phase:
#
# | method | B0, 10 a phase | B50, 10 a phase |
# | --- | --- | --- |
# | replay | 59.1 / 40.9 | 52.2 / 41.1 |
# | iCaRL (nearest mean) | 64.2 / 49.4 | 61.1 / 52.0 |
# | **WA** | **67.0 / 52.2** | **64.2 / 56.0** |
# | DER | 69.6 / 58.6 | 68.2 / 61.9 |
#
# Before you compare with such a row, compare what is *not* in it:
#
# - **Augmentation.** FOSTER has 64.7 with crops and flips, and 73.5 with AutoAugment and Cutout (a policy of random
#   changes; a blanked square)
#   ([PyCIL issue 19](https://github.com/G-U-N/PyCIL/issues/19)). WA, iCaRL and DER above are without.
# - **Memory rule.** FOSTER, with AutoAugment: 72.9 with 2000 exemplars in all, 70.9 with 20 of each class from the start
#   ([FOSTER issue 4](https://github.com/G-U-N/ECCV22-FOSTER/issues/4)).
# - **Network and protocol.** WA in the protocol of the method DyTox, with a ResNet-18, has 69.5 / 53.8 at B0, 10 a phase
#   ([DyTox](https://github.com/arthurdouillard/dytox)); with the ResNet-32 above 67.0 / 52.2.
# - **Initialisation.** PyCIL draws new rows with length about 1 and bias 0. `torch.nn.Linear`, and so this package, draws
#   them with length 0.58. It moves the lengths of rows, and so gamma.
# - **Prediction.** iCaRL's numbers are those of the nearest mean, the others' those of the classifier.
# - **Seed**: see the bands above. **Class order** isn't in them, for all 18 runs have one order;
#   `python -m cil_func sweep --orders` shows what it is worth.

# %%
show(
    drawings.moves({
        "augmentation\n(FOSTER, B0)": ("crop, flip", 64.7, "+ AutoAugment, Cutout", 73.5),
        "memory rule\n(FOSTER, B0)": ("20 a class", 70.9, "2000 in all", 72.9),
        "network\n(WA, B0)": ("ResNet-32", 67.0, "ResNet-18", 69.5),
        "method\n(B0, plain)": ("iCaRL, nearest mean", 64.2, "WA", 67.0),
    }),
    "moves",
    "How far published averages move by choices beside the method, and by the method.",
)  # fmt: skip

# %% [markdown]
# A choice of augmentation moves a number three times as far as the step from iCaRL, by the nearest mean, to WA. So print it beside every
# number. Each run of this package keeps its whole configuration, versions, seed and class order in `results.json`.
#
# A recorded run of ours, on the B50 protocol, with a schedule of less than a fifth of the published length. It reaches the published
# numbers by a recipe of its own, with a light operation of RandAugment on each image that theirs doesn't have: one more
# reason to print the recipe beside the number.

# %%
path = RECORDS / "cifar-fast-cuda.json"
if path.exists():
    figures = json.loads(path.read_text())["figures"]
    average, last = figures["average_incremental_accuracy"], figures["last_accuracy"]
    steps = [(figures[f"top1_before_align_phase_{phase}"], figures[f"top1_phase_{phase}"]) for phase in range(1, 6)]
    print(f"average {average:.1f}, last {last:.1f}; published with the full schedule: 64.2, 56.0")
    print("aligning, phase by phase: " + ", ".join(f"{before:.1f} -> {after:.1f}" for before, after in steps))

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | average | `metrics.average_incremental_accuracy` | `tests/test_metrics.py::test_average_incremental_accuracy_by_hand` |
# | the published sum | `losses.distillation` | `tests/methods/test_methods.py::test_the_published_sum_has_the_gradient_of_half_t_squared_kl` |
#
# ## Your own method
#
# A method is a record of functions: a loss, what happens after a phase, how it predicts. Yours needs no change of the
# package: put a function that returns a record into a file, and name it, `method.name=FILE.py:FUNCTION`. An idea from
# chapter 5: if aligning fully is sometimes too much, go only a part of the way, `new rows <- gamma^power * new rows`.
# The whole file, `cil_func/tutorial/own_method.py`:

# %%
from pathlib import Path

from cil_func.tutorial import own_method, whole_runs

print(Path(own_method.__file__).read_text())

# %% [markdown]
# This one changes single fields of `wa`. A record made from nothing needs two fields, `name` and `loss`; all others have a
# default, and with the defaults it is `finetune`:
#
# ```python
# from cil_func import losses
# from cil_func.methods import Method
#
#
# def make(options):
#     def loss(student, teacher, targets, classes):
#         return losses.cross_entropy(student.logits, targets.labels, mask=classes.seen, rows=targets.rows)
#
#     return Method(name="mine", loss=loss, uses_memory=True)  # without uses_memory no exemplars are kept
# ```
#
# - `student`: what the network says about a batch, `student.logits` (B, C) for all C classes of the run and
#   `student.features` (B, D). `teacher`: the same of the last phase's model, for the same images; None without
#   `uses_teacher=True`.
# - `targets`: `labels` (B,), and `rows` (B,), False where a row only fills up an epoch's last batch.
# - `classes`: masks (C,) of the classes `seen`, `old` and `new`, and `counts`, how many images each has.
# - Other fields: `finish(params, num_new)`, called after a phase's training (aligning); `predict="nme"`;
#   `trainable(path)`, False for what is frozen; and more. `cil_func/methods/README.md` has the table of all of them.
#
# ```sh
# python train.py --set method.name=cil_func/tutorial/own_method.py:make --set method.options.power=0.5
# ```
#
# Further keywords of the function are options: `method.options.power`. Try it where aligning was too much, with 100
# exemplars and the convex rule:

# %%
CONVEX = ("method.kd_combination=convex", "method.kd_weight=dynamic", "memory.size=100", "run.seed=1")
OWN = "method.name=cil_func.tutorial.own_method:make"
half = whole_runs.learn(OWN, "method.options.power=0.5", *CONVEX).results
full = whole_runs.learn(OWN, "method.options.power=1.0", *CONVEX).results
top1 = {
    "power 0: not aligned": [row["top1_before_align"] or row["top1"] for row in full["phases"]],
    "power 0.5": [row["top1"] for row in half["phases"]],
    "power 1: WA": [row["top1"] for row in full["phases"]],
}
for label, values in top1.items():
    print(f"{label:<22} {[round(value, 1) for value in values]}")
show(drawings.powers(top1), "powers", "The method above with three powers, where aligning does harm. One seed.")

# %% [markdown]
# (The first row is measured before aligning in the run of the last one, so its phase 2 starts from an aligned phase 1.)
# Is it a good method? One seed on digits can't say. Three things keep you honest: choose `power` on training images that
# are kept out (the key `data.validation`, chapter 5), never on the test images that you report; report all seeds; and
# report the best simple method beside it. Methods tuned on the scenario that they are reported on lose much of their lead
# elsewhere ([Cha and Cho 2024](https://arxiv.org/abs/2403.09066)).
# `tests/own/adjusted_replay.py` is another one: replay with a loss of its own.
#
# | idea | function | test |
# | --- | --- | --- |
# | a method is a record | `base.Method` | `tests/end_to_end/test_own_code.py::test_a_method_by_its_path_with_an_option` |
# | a method of one's own | `own_method.make` | `tests/tutorial/test_own_method.py::test_power_one_is_wa_and_zero_leaves_the_rows` |
#
# ## Months later
#
# A finished run is a directory that can be used without its training data. `model.safetensors` holds `params` and `state`,
# and for a method that predicts by the nearest class mean, such as `icarl`, the means of all classes too. `model.json`
# holds the class names, how images are resized and normalised, and the rule of prediction. The exemplars, in `memory/`,
# are there for more classes later; a prediction doesn't need them.
#
# ```sh
# python -m cil_func predict runs/animals photo.jpg --top 3     # names and probabilities
# python -m cil_func calibrate runs/animals unseen/             # fits the temperature of chapter 5
# python -m cil_func export runs/animals --to onnx              # a file that answers without this package
# ```
#
# New classes come later: a folder with their images, and `runs/animals`, which is only read. The exemplars of the old
# classes come from its `memory/`, and method, optimiser and all other settings from its configuration; `--set` changes
# them. The new directory is complete and can be extended again.
#
# ```sh
# python train.py --extend runs/animals --set data.path=more_animals --out runs/animals-2
# python -m cil_func compare runs/animals runs/animals-2        # class by class: better, worse
# ```
#
# ## Predict, then run
#
# **Question 1.** A method reports an average of 70 and a last accuracy of 50 over two phases. What was its accuracy in
# phase 0?

# %% answer
answer_1 = 2 * 70 - 50
print(f"(x + 50) / 2 = 70, so x = {answer_1}. An average may owe much to a phase in which nothing could be forgotten.")

# %% [markdown]
# **Question 2.** Leave `joint` and `icarl` out. Which of the other four methods above forgets least, and which has the
# best last accuracy?

# %% answer
forgetting = {name: fmean(run["forgetting"] for run in runs) for name, runs in methods.items()}
lasts = {name: fmean(run["last_accuracy"] for run in runs) for name, runs in methods.items()}
others = [name for name in methods if name not in ("joint", "icarl")]
answer_2 = (min(others, key=forgetting.get), max(others, key=lasts.get))
print(
    f"{answer_2[0]} forgets least, {forgetting[answer_2[0]]:.1f} points; {answer_2[1]} is best at the end, {lasts[answer_2[1]]:.1f} %."
)
print("Forgetting counts what is lost of the best accuracy that a class ever had, however low that was.")
