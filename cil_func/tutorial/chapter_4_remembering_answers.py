# %% [markdown]
# # 4. Remembering answers
#
# Images of old classes are few. But there is something else that knows them: the model of the last phase. It can be
# asked about *any* image, and its answers about old classes may serve as labels for the next model. That is knowledge
# distillation ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)). The method LwF, Learning without Forgetting, brought
# it into incremental learning; it keeps no image at all ([Li and Hoiem 2016](https://arxiv.org/abs/1606.09282)). It works
# against cause 1 of chapter 2: now every image says something about old classes, also an image of a new one.
#
# ## The formula
#
# t are the teacher's logits and s the student's, over the old classes only. T > 0 is the temperature.
#
#     KD = mean over images of   - sum over c of  softmax(t / T)_c  log softmax(s / T)_c
#
# It is a cross-entropy whose labels are probabilities, a *soft* cross-entropy. We look at a teacher that knows eight
# digits, and at a test image that it classifies rightly and is quite sure of.

# %%
import torch

from cil_func import losses, memory, methods, metrics
from cil_func.tutorial import small
from cil_func.tutorial.drawings import teacher as drawings
from cil_func.tutorial.figures import show

data = small.digits()
OLD, NEW, T = 8, 2, 2.0


def cross_entropy(params, images, labels):
    """Cross-entropy over all classes of the network."""
    return losses.cross_entropy(small.apply(params, images), labels)


known, tested = data.train_labels < OLD, data.test_labels < OLD
teacher = small.fit(small.init(0, OLD), cross_entropy, data.train[known], data.train_labels[known], epochs=10)
print(
    f"teacher: {metrics.accuracy(small.apply(teacher, data.test[tested]), data.test_labels[tested]):.1f} % on 8 digits"
)

logits = small.apply(teacher, data.test[tested])
confidence, says = logits.softmax(1).max(1)
wrong = says != data.test_labels[tested]
sure = (confidence - 0.95).abs().masked_fill(wrong, float("inf")).argmin()  # right, with a confidence of about 0.95
answers = {f"T = {value:g}": (logits[sure] / value).softmax(0).tolist() for value in (1.0, 2.0, 5.0)}
show(
    drawings.temperatures(data.test[tested][sure].reshape(8, 8).tolist(), answers, data.names[:OLD]),
    "temperature",
    f"A test image, a {data.names[data.test_labels[tested][sure]]}, and what the teacher says about it at three "
    "temperatures.",
)

# %% [markdown]
# A label says what the image is. The teacher's answer also says what it resembles. At T = 1 that is hidden behind the
# largest probability, which is nearly all there is to see. At T = 2 and 5 the other classes count, those that resemble
# the image most. At a very high T all classes are alike and nothing is said.
#
# ## Soft cross-entropy and KL divergence: one gradient
#
# Some code has KD as above, other code has the Kullback-Leibler divergence. Write p = softmax(t / T), q = softmax(s / T):
#
#     KL(p, q) = sum p log(p / q) = sum p log p - sum p log q = KD - H(p)        H(p): the teacher's entropy
#
# H(p) doesn't depend on the student, so both have the same gradient by s. That gradient is easy to derive. With
# log q_c = s_c / T - log sum over j of exp(s_j / T), and since the p_c add up to 1:
#
#     KD          = - sum over c of p_c s_c / T  +  log sum over j of exp(s_j / T)
#     d KD / d s_c = - p_c / T + q_c / T  =  (q_c - p_c) / T
#
# It is 0 where the student says what the teacher says. The student's logits may still differ from the teacher's by a
# constant: a softmax doesn't see it. All of it in numbers:

# %%
import torch.nn.functional as F

generator = torch.Generator().manual_seed(0)
s, t = torch.randn(5, OLD, generator=generator).double(), torch.randn(5, OLD, generator=generator).double()
p, q = (t / T).softmax(1), (s / T).softmax(1)


def soft(s):
    """The soft cross-entropy."""
    return losses.distillation(s, t, temperature=T)


def kl(s):
    """The Kullback-Leibler divergence, by torch's own function."""
    return F.kl_div((s / T).log_softmax(1), p, reduction="batchmean")


entropy = -(p * p.log()).sum(1).mean()
derived = (q - p) / T / len(s)  # the mean over 5 images divides by 5
torch.testing.assert_close(soft(s), kl(s) + entropy)
torch.testing.assert_close(torch.func.grad(soft)(s), derived)
torch.testing.assert_close(torch.func.grad(kl)(s), derived)
torch.testing.assert_close(soft(s + 3.0), soft(s))  # a constant, added to all logits
print(f"soft cross-entropy {soft(s):.4f} = KL {kl(s):.4f} + entropy of the teacher {entropy:.4f}")
print(f"largest difference of the two gradients: {(torch.func.grad(soft)(s) - torch.func.grad(kl)(s)).abs().max():.0e}")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | distillation | `losses.distillation` | `tests/test_losses.py::test_distillation_by_hand` |
# | the gradient of KL | `losses.distillation` | `tests/test_losses.py::test_distillation_is_torchs_soft_cross_entropy_with_the_gradient_of_kl` |
# | least at the teacher | `losses.distillation` | `tests/test_losses.py::test_distillation_is_least_at_the_teacher` |
#
# ### The factor T^2
#
# A factor 1 / T stands in the gradient, and q - p shrinks by about another 1 / T as both softmaxes flatten. So for large
# T the gradient falls as 1 / T^2, and Hinton's paper multiplies the loss by T^2. Recipes differ here. With T = 2,
# "0.5 T^2 KL" and "2 KD" have the same gradient; a weight without its formula says nothing.

# %%
values = [1.0, 2.0, 4.0, 8.0, 16.0]
lengths = [torch.func.grad(losses.distillation)(s, t, temperature=value).norm().item() for value in values]
print("T from 8 to 16 divides the gradient by " + f"{lengths[3] / lengths[4]:.2f}")
show(
    drawings.gradients(values, {"KD": lengths, "T^2 KD": [v * v * x for v, x in zip(values, lengths, strict=True)]}),
    "gradient",
    "How long the gradient of the distillation is, by temperature. The factor T^2 keeps it nearly constant.",
)

# %% [markdown]
# ## Where the teacher comes from
#
# The teacher is the model that the phase before ended with, finished in every respect: aligned, if the method aligns. The
# student begins as the same model with rows for the new classes. Where a model is a module that training changes in
# place, the teacher has to be a deep copy, put into eval mode, without gradients. Here training makes new trees, so the
# teacher is a name for the old one. Nothing can change it.

# %%
student = small.expand(teacher, 1, NEW)
assert student["hidden"] is teacher["hidden"]  # nothing was copied
before = teacher["classifier"]["weight"].clone()
small.fit(student, cross_entropy, data.train[:64], data.train_labels[:64], epochs=1)
assert torch.equal(teacher["classifier"]["weight"], before)
print(f"teacher: {len(before)} rows, unchanged; student: {len(student['classifier']['weight'])} rows")
show(
    drawings.teacher_and_student(data.names[:OLD], data.names[OLD:]),
    "teacher",
    "Teacher and student. Both see the same augmented images. Distillation compares the logits of old classes; the "
    "cross-entropy is over all classes.",
)

# %% [markdown]
# ## The combined loss
#
# n old classes, m new ones. Two rules for the sum of the two losses are in use, and both are published under the name WA:
#
#     convex:   L = (1 - lambda) CE + lambda KD          lambda = n / (n + m)
#     sum:      L = CE + w KD                            w = 2
#
# The convex weight follows how much there is to lose. In B50 with ten new classes a phase, lambda rises from
# 50/60 = 0.83 in phase 1 to 90/100 = 0.9 in phase 5, and the new classes are learned with the small rest. The sum gives
# new classes the full weight. With it the published curves of WA were made
# ([survey by Zhou et al.](https://arxiv.org/abs/2302.03648), by means of PyCIL, a library with many methods).
# The function `methods.distillation.add` has both rules; two keys of the configuration choose:
#
# | rule | keys | files that have it |
# | --- | --- | --- |
# | convex | `method.kd_combination=convex`, `method.kd_weight=dynamic` | `cifar.toml`, `cifar-b0-10.toml`, `imagenet1000.toml`; and what a file leaves out |
# | sum, CE + 2 KD | `method.kd_combination=sum`, `method.kd_weight=2` | `digits.toml` (`train.py` without flags), `folder.toml`, `cifar-survey.toml`, `imagenet100.toml`, `imagenet100-b0-10.toml`, `cub200.toml`; in `cifar-fast.toml` the weight is 4 |
#
# `--set` changes a file's rule:
#
# ```sh
# python train.py --config cifar.toml --set method.kd_combination=sum --set method.kd_weight=2
# ```
#
# Chapters 5 to 7 use the sum where they don't say otherwise. Chapter 8 lists all five recipes that are called WA; as far
# as the gradient goes, four of them follow one of these two rules, and the fifth also clips weights.
# The convex rule, on this chapter's network:

# %%


def combined(teacher, num_old, num_new):
    """Returns the loss of a phase: cross-entropy, and distillation from the teacher."""
    weight = num_old / (num_old + num_new)

    def loss(params, images, labels):
        logits, answers = small.apply(params, images), small.apply(teacher, images)
        kd = losses.distillation(logits[:, :num_old], answers, temperature=T)
        return (1 - weight) * losses.cross_entropy(logits, labels) + weight * kd

    return loss


for seen in (50, 60, 70, 80, 90):
    print(f"{seen} old classes and 10 new: lambda = {seen / (seen + 10):.3f}")

# %% [markdown]
# The package's loss is the same number, computed in another form. A run of the package trains a classifier that has a
# row for each class of the whole run from the beginning, a classifier of *full width*. A *mask*, one True or False for each
# class, says which classes are seen, and another which are old; masked logits don't count. (Chapter 6 says why.) Three
# records hold what a loss is given: `Outputs`, what a network says about a batch (logits and features); `Targets`, its
# labels; `Classes`, the masks. The teacher has 8 logits, and `F.pad` puts two zeros behind them, which the mask of old
# classes hides.

# %%
images, labels = data.train[:32], data.train_labels[:32]
wa = methods.make("wa", methods.Options(temperature=T, kd_combination="convex", kd_weight="dynamic"))
classes = methods.Classes(seen=torch.ones(10, dtype=torch.bool), old=torch.arange(10) < OLD)
wide = F.pad(small.apply(teacher, images), (0, NEW))  # (32, 10)
student_says = methods.Outputs(small.apply(student, images), small.features(student, images))
teacher_says = methods.Outputs(wide, small.features(teacher, images))
ours = wa.loss(student_says, teacher_says, methods.Targets(labels), classes)
mine = combined(teacher, OLD, NEW)(student, images, labels)
torch.testing.assert_close(ours, mine)
print(f"methods.make('wa', ...).loss: {ours:.6f}    the formula: {mine:.6f}")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | new rows for the student | `classifier.expand` | `tests/test_classifier.py::test_expand_keeps_old_rows_and_draws_new_ones_as_linear_does` |
# | combined loss, lambda = n / (n + m) | `distillation.add` | `tests/methods/test_methods.py::test_loss_of_a_later_phase` |
# | recipes with the same gradient | `distillation.add` | `tests/methods/test_methods.py::test_the_published_sum_has_the_gradient_of_half_t_squared_kl` |
#
# ## What it does
#
# Four runs over the five phases: with and without exemplars, with and without a teacher. The memory is tiny, 20 images in
# all, two of each class at the end.

# %%


def run(*, size, teaches):
    """Runs all phases. size: of the memory. teaches: whether the last model teaches. Returns (network, top-1 of each phase)."""
    kept, top1, last = {}, [], None
    for phase in data.phases:
        num_old, num_seen = NEW * phase.index, NEW * (phase.index + 1)
        rows = torch.cat([phase.train_rows, memory.rows(kept)])
        start = small.expand(last, phase.index, NEW) if last else small.init(0, NEW)
        loss = combined(last, num_old, NEW) if teaches and last else cross_entropy
        last = small.fit(start, loss, data.train[rows], data.train_labels[rows], key=phase.index, epochs=20)
        quota, chosen = memory.quota(num_seen, size=size), {}
        for label in range(num_old, num_seen):
            of_class = (data.train_labels == label).nonzero()[:, 0]
            features = small.features(last, data.train[of_class])
            chosen[label] = of_class[memory.choose(features, quota, selection="herding", key=0)]
        kept = memory.update(kept, chosen, quota)
        seen = data.test_labels < num_seen
        top1.append(metrics.accuracy(small.apply(last, data.test[seen]), data.test_labels[seen]))
    return last, top1


runs = {
    "finetune": run(size=0, teaches=False),
    "teacher, no images": run(size=0, teaches=True),
    "20 images, no teacher (replay)": run(size=20, teaches=False),
    "20 images and teacher": run(size=20, teaches=True),
}
old = data.test_labels < OLD
for label, (network, values) in runs.items():
    among = metrics.accuracy(small.apply(network, data.test[old])[:, :OLD], data.test_labels[old])
    curve = " ".join(f"{value:5.1f}" for value in values)
    print(f"{label:<31} {curve}   old classes among themselves, at the end: {among:.1f}")
show(
    drawings.accuracies({label: values for label, (_, values) in runs.items()}),
    "accuracies",
    "Finetune, distillation, replay, and both together, with 20 exemplars in all. A teacher without images does no more "
    "than finetune: the two lower curves are one. With images it is level with replay, and behind it in the last phase.",
)

# %% [markdown]
# Without old images the teacher does little here: new digits say little about old ones. With 20 old images it keeps the
# old classes apart from *each other* better than replay alone: compare the last column. And yet fewer test images are
# classified rightly at the end. The reason is in the formula. KD sees old logits only, and adding a constant to all of
# them changes nothing in it. What compares old with new is the cross-entropy, which has little weight, and it pushes old
# logits down on every new image (chapter 2). So the network leans to the new classes. Chapter 5 is about correcting that
# when the training is over, and about when it fails. (One seed, a tiny network: only large differences count. Over three
# seeds and with aligning, WA is far ahead of replay: chapter 8.)
#
# ## Predict, then run
#
# **Question 1.** The student says exactly what the teacher says. Is KD then 0?

# %% answer
same = losses.distillation(t, t, temperature=T)
slope = torch.func.grad(losses.distillation)(t, t, temperature=T).abs().max()
answer_1 = (same.item() - entropy.item(), slope.item())
print(f"No: KD = {same:.4f}, the entropy of the teacher. Its gradient is {slope:.0e}: it can't become less.")

# %% [markdown]
# **Question 2.** The teacher knows eight classes, and T becomes very large. To which number does KD tend, whatever the
# student says?

# %% answer
answer_2 = losses.distillation(s, t, temperature=1e6).item()
print(
    f"Both softmaxes become uniform: KD tends to log 8 = {torch.tensor(8.0).log():.4f}; at T = 1e6 it is {answer_2:.4f}"
)
