# %% [markdown]
# # 7. The whole loop
#
# You have met every part. Here they are together, in plain PyTorch: modules, `backward()`, `torch.optim`, and nothing of
# this package. Sixty lines are the whole method. Then the same data go through `experiment`, the package's own loop, and
# both end in the same weights, up to rounding in float64.
#
# | step | what it does | chapter |
# | --- | --- | --- |
# | 1 teacher | the last phase's model, kept as it is | 4 |
# | 2 expand | rows for new classes | 5 |
# | 3 train | new images and exemplars, CE + KD | 2, 4 |
# | 4 align | new rows as long as old ones | 5 |
# | 5 select | exemplars by herding, of un-augmented images in eval mode | 3 |
# | 6 evaluate | on all classes seen | 1 |

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn


def grown(head, new):
    """Returns a linear layer with the rows of `head`, and those of `new` below them."""
    both = nn.Linear(head.in_features, head.out_features + new.out_features, dtype=head.weight.dtype)
    both.weight.data = torch.cat([head.weight.data, new.weight.data])
    both.bias.data = torch.cat([head.bias.data, new.bias.data])
    return both


def herd(features, count):
    """Returns the numbers of `count` rows, one after the other, whose mean is nearest to the mean of all."""
    features, chosen = F.normalize(features), []
    total = torch.zeros_like(features[0])
    for k in range(1, min(count, len(features)) + 1):
        distances = (features.mean(0) - (total + features) / k).norm(dim=1)  # (N,)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)


def class_incremental(train, test, sizes, body, new_rows, order, *, size, epochs=10, rate=0.05, batch_size=32):
    """Returns (body, head, exemplars, accuracies). new_rows(phase) and order(phase, epoch, count) give what is random."""
    (images, labels), (test_images, test_labels) = train, test
    head, kept, accuracies = None, {}, []
    for phase in range(len(sizes)):
        num_old, num_seen = sum(sizes[:phase]), sum(sizes[: phase + 1])
        teacher = copy.deepcopy((body, head))  # 1. teacher
        head = grown(head, new_rows(phase)) if phase else new_rows(phase)  # 2. expand
        new = torch.nonzero((labels >= num_old) & (labels < num_seen))[:, 0]
        rows = torch.cat([new, *(kept[label] for label in sorted(kept))])
        sgd = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=rate, momentum=0.9, weight_decay=5e-4)
        for epoch in range(epochs):  # 3. train
            sgd.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
            for batch in rows[order(phase, epoch, len(rows))].split(batch_size):
                logits = head(body(images[batch]))
                loss = F.cross_entropy(logits, labels[batch])
                if phase:
                    with torch.no_grad():
                        soft = (teacher[1](teacher[0](images[batch])) / 2).softmax(1)
                    loss = loss - 2 * (soft * (logits[:, :num_old] / 2).log_softmax(1)).sum(1).mean()
                sgd.zero_grad()
                loss.backward()
                sgd.step()
        with torch.no_grad():
            if phase:  # 4. align
                norms = head.weight.norm(dim=1)
                head.weight[num_old:] *= norms[:num_old].mean() / norms[num_old:].mean()
            for label in range(num_old, num_seen):  # 5. select
                own = torch.nonzero(labels == label)[:, 0]
                kept[label] = own[herd(body(images[own]), size // num_seen)]
            kept = {label: rows[: size // num_seen] for label, rows in kept.items()}
            tested = test_labels < num_seen  # 6. evaluate
            right = head(body(test_images[tested])).argmax(1) == test_labels[tested]
            accuracies.append(100 * right.double().mean().item())
    return body, head, kept, accuracies


# %% [markdown]
# Nothing is hidden: the functions above are all there is. The loss is the sum CE + 2 KD with T = 2, the one of the default
# run (chapter 4). This body has no batch norm and the loop augments nothing, so step 5 needs no `eval()`. What is random comes in as arguments: the first weights, the
# new rows, the order of the images. Alone, they could be `nn.Linear(32, num_new)` and `torch.randperm(count)`.
#
# ## The same by the package
#
# `experiment.run` is this loop, top to bottom, with everything that a real run needs around it. `whole_runs.learn` calls
# it with a network of two layers. What differs from the loop above is *how* it computes:
#
# - The gradient is `torch.func.grad` of a pure function, in place of `backward()`.
# - The classifier has rows for all ten classes from the beginning, and a mask hides those that are not seen (chapter 6).
#   The loop above has a layer that grows.
# - The teacher answers several batches in one call, before the steps that need its answers.
# - Herding compares squared distances, which have the same order as distances.

# %%
from cil_func import classifier, rng
from cil_func.tutorial import whole_runs
from cil_func.tutorial.drawings import loops as drawings
from cil_func.tutorial.figures import show

ours = whole_runs.learn("method.name=wa", "method.kd_combination=sum", "method.kd_weight=2", "memory.size=20")
made, scenario = ours.made, ours.made.scenario
sizes = [len(phase.classes) for phase in scenario.phases]


def linear(params):
    """Returns a torch.nn layer with these numbers, in float64."""
    layer = nn.Linear(*reversed(params["weight"].shape), dtype=torch.float64)
    layer.load_state_dict({name: leaf.double() for name, leaf in params.items()})
    return layer


def key_of(phase):
    return rng.fold_in(made.seed, "phase", phase)


drawn = made.network.init(rng.fold_in(key_of(0), "init"), sizes[0]).params
layers = drawn["backbone"]["perceptron"]
body = nn.Sequential(nn.Flatten(), linear(layers["first"]), nn.ReLU(), linear(layers["second"]), nn.ReLU())


def new_rows(phase):
    if phase == 0:
        return linear(drawn["classifier"])
    return linear(classifier.init(rng.fold_in(key_of(phase), "expand"), 32, sizes[phase]))


def order(phase, epoch, count):
    key = rng.fold_in(rng.fold_in(key_of(phase), "epoch", epoch), "order")
    return torch.randperm(count, generator=rng.generator(key))


# %% [markdown]
# Every draw of the package follows from a key: the seed, what the draw is for, the phase, the epoch. So the order of the
# images in phase 2, epoch 7 can be asked for without running anything before it. That is how a run that was stopped goes
# on with the same bits, and how we can hand the same draws to the loop above.

# %%
train = made.preprocess(made.train_images.pixels, torch.float64), scenario.train_labels
test = made.preprocess(made.test_images.pixels, torch.float64), scenario.test_labels
body, head, kept, accuracies = class_incremental(train, test, sizes, body, new_rows, order, size=20)

learned = ours.ends[-1].learned.params
theirs = {"first": body[1], "second": body[3], "classifier": head}
pairs = {**learned["backbone"]["perceptron"], "classifier": learned["classifier"]}
differences = [
    (pairs[layer][name] - getattr(theirs[layer], name)).abs().max().item()
    for layer in pairs
    for name in ("weight", "bias")
]
largest = max(differences)
assert largest < 1e-10
assert all(torch.equal(kept[label], rows) for label, rows in ours.ends[-1].exemplars.items())
by_package = [row["top1"] for row in ours.results["phases"]]
assert accuracies == by_package
print(f"all weights equal within 1e-10: {largest < 1e-10}; the largest is {head.weight.abs().max():.2f}")
print(f"the same {sum(map(len, kept.values()))} exemplars")
print(f"the same accuracies: {[round(each, 1) for each in accuracies]}")
weights = torch.cat([pairs[layer]["weight"].flatten() for layer in pairs])
by_torch = torch.cat([theirs[layer].weight.detach().flatten() for layer in pairs])
show(
    drawings.both(weights.tolist(), by_torch.tolist(), accuracies),
    "both",
    "Each weight that sixty lines of torch have learned, against the same weight by `experiment`: all lie on the line.",
)

# %% [markdown]
# Equal *within rounding*, not bit by bit. A step of the package divides a vector of sums by the number of images, so that
# several processes can add theirs up. `torch.optim.SGD` multiplies and adds in another order. Both are right; the last
# bits differ, at most about 1e-13 here after all phases. Which images are kept, and every accuracy, are equal exactly.
#
# The tests do the same with a ResNet and batch norm, for each method that adds something of its own.
#
# | idea | function | test |
# | --- | --- | --- |
# | the phase loop | `experiment.run` | `tests/methods/test_bic.py::test_three_phases_are_those_of_a_conventional_loop` |
# | the step | `step.make` | `tests/training/test_step.py::test_three_steps_are_those_of_a_conventional_loop` |
# | draws from keys | `rng.fold_in` | `tests/test_rng.py::test_keys_are_the_same_in_another_process_and_stay_so` |
# | herding | `herding.herd` | `tests/test_herding.py::test_large_float_features_follow_the_definition_row_for_row` |
#
# ## Predict, then run
#
# **Question 1.** A change of a sum in the last digit, 1e-16, is all that differs in the first step. Suppose it grew
# tenfold in each epoch. How large would it be after the 30 epochs of this run, and could accuracies still agree?

# %% answer
answer_1 = (1e-16 * 10.0**30 > 1, largest < 1e-10)
print(f"1e14 if it grew like that: {answer_1[0]}. It doesn't: within 1e-10 after 30 epochs, {answer_1[1]}.")

# %% [markdown]
# **Question 2.** Leave the teacher out: `loss = F.cross_entropy(...)` alone, in all phases. The rest stays, exemplars and
# aligning too. Is the last accuracy higher or lower?

# %% answer
plain = whole_runs.learn("method.name=wa", "method.kd_combination=sum", "method.kd_weight=0", "memory.size=20")
answer_2 = "lower" if plain.results["last_accuracy"] < ours.results["last_accuracy"] else "higher"
print(f"{answer_2}: {plain.results['last_accuracy']:.1f} %, with the teacher {ours.results['last_accuracy']:.1f} %")
