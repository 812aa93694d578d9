# %% [markdown]
# # 6. The model as a tree
#
# In most PyTorch code a model is an object: it holds its weights, and calling it may change them. Here a model is two
# values, and everything that happens to it is a function. This chapter shows what that buys: freezing without flags,
# many models at once, one compiled step for the whole run, the same result on any number of processes. At its end you
# write your own training loop.
#
#     (logits, features, new state) = apply(params, state, images)
#
# - `params`: what is learned: the weights of backbone and classifier.
# - `state`: what is not learned but changes: the running statistics of batch norm.
#
# Both are nested dicts of tensors, in this package a *tree*; JAX and `torch.utils._pytree` say *pytree*. Why two? They
# change by different rules. `params` are differentiated, and the optimiser replaces them, with momentum and weight decay.
# `state` must not be differentiated or decayed: the forward pass replaces it in training and leaves it as it is in a
# test. With two arguments each function says which of them it reads and which it returns, and `torch.func.grad`, which
# differentiates its first argument, gets exactly what is to be differentiated.

# %%
import torch

from cil_func import losses, model, optim, tree
from cil_func.tutorial.drawings import trees as drawings
from cil_func.tutorial.figures import show

params, state = tree.cast(model.init(0, "resnet20", 4), dtype=torch.float64)
paths = tree.to_paths(params)
print(f"{len(paths)} tensors, {tree.size(params):,} numbers, for example {next(iter(paths))}")

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
targets = torch.arange(16) % 4
logits, features, new_state = model.apply(params, state, inputs, train=True)
before, after = (each["backbone"]["resnet20"]["stem"]["norm"]["mean"] for each in (state, new_state))
print(f"running mean: {before.abs().max():.2f} in the old state, still; {after.abs().max():.2f} in the new one")

# %% [markdown]
# ## Freezing is a choice of what is differentiated
#
# `torch.func.grad` differentiates with respect to its first argument. Whatever is not in it is frozen. So split the tree
# in two, and differentiate with respect to one part. There is no `requires_grad` to set, and none to forget.
#
#     chosen, frozen = partition(params)            gradient = d loss(merge(chosen, frozen)) / d chosen

# %%
classifier_only, rest = tree.partition(params, lambda path: path.startswith("classifier."))


def loss(chosen, rest):
    return losses.cross_entropy(model.apply(tree.merge(chosen, rest), state, inputs, train=True)[0], targets)


part = torch.func.grad(loss)(classifier_only, rest)
whole = torch.func.grad(loss)(params, {})
torch.testing.assert_close(part["classifier"], whole["classifier"])
print(f"gradient of the part: {list(tree.to_paths(part))}; of the whole: {len(tree.to_paths(whole))} tensors")
sizes = {f"backbone, {name}": tree.size(leaves) for name, leaves in params["backbone"]["resnet20"].items()}
sizes["classifier"] = tree.size(params["classifier"])
show(
    drawings.frozen(sizes, ["classifier"]),
    "frozen",
    "The parts of params. What is differentiated is trained; the rest is frozen because it is another argument.",
)

# %% [markdown]
# In a run by `train.py`, `model.freeze` names the parts that stay as they are, by their paths:
#
# ```sh
# python train.py --set 'model.freeze=["backbone"]' --dry-run      # the classifier alone is trained
# ```
#
# A method of your own has the field `trainable`, a function from a path to True or False (chapter 8). Batch norm of a part
# that `model.freeze` names uses its running statistics, which stay too; Question 2 below shows what happens otherwise.
#
# ## A step is a function
#
# An optimiser is a pair of functions too: `init(params)` returns its state, `update(grads, opt_state, params, rate)`
# returns what to add. Nothing is changed in place, so a step can be repeated, compared, and undone by keeping the old
# value. The teacher of a phase is the last phase's model *because nobody has changed it*: no copy is made.
# `training.step.simple_step` is the same step for a whole method, in ten lines to read.

# %%
optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)


def step(params, opt_state, images, labels, rate):
    def loss(params):
        return losses.cross_entropy(small.apply(params, images), labels)

    updates, opt_state = optimiser.update(torch.func.grad(loss)(params), opt_state, params, rate)
    return optim.apply_updates(params, updates), opt_state


from cil_func.tutorial import small  # chapters 2 to 4 use this network: one hidden layer, on digits

data, rate = small.digits(), torch.tensor(0.1)
begun = small.init(0, 10)
once, _ = step(begun, optimiser.init(begun), data.train[:32], data.train_labels[:32], rate)
again, _ = step(begun, optimiser.init(begun), data.train[:32], data.train_labels[:32], rate)
assert all(map(torch.equal, tree.leaves(once), tree.leaves(again)))
print("the same step from the same values twice: the same bits")

# %% [markdown]
# ## Many models at once
#
# `torch.func.vmap` maps a function over a new first axis. Stack the trees of eight seeds, and one call trains eight
# models. What it saves depends on the model and the machine. (For convolutions on a CPU it is slower than a loop:
# weights that differ become a grouped convolution.)

# %%
stacked = tree.map(lambda *leaves: torch.stack(leaves), *(small.init(seed, 10) for seed in range(8)))
opt_states = tree.map(lambda *leaves: torch.stack(leaves), *(optimiser.init(small.init(seed, 10)) for seed in range(8)))
steps_of_all = torch.func.vmap(step, in_dims=(0, 0, None, None, None))
shuffled = torch.randperm(len(data.train), generator=generator).split(32)

batch = data.train[:32], data.train_labels[:32], rate
after_one, _ = steps_of_all(stacked, opt_states, *batch)
torch.testing.assert_close(after_one["classifier"]["weight"][0], once["classifier"]["weight"])
print("seed 0 in the stack is seed 0 alone")

found, at = [], []
for number, rows in enumerate(shuffled * 2):
    stacked, opt_states = steps_of_all(stacked, opt_states, data.train[rows], data.train_labels[rows], rate)
    if number % 5 == 4:
        logits = torch.func.vmap(small.apply, in_dims=(0, None))(stacked, data.test)  # (8, N, 10)
        found.append(100 * (logits.argmax(2) == data.test_labels).float().mean(1))
        at.append(number + 1)
accuracies = torch.stack(found)  # (steps, 8)
print(f"after {at[-1]} steps: accuracies {accuracies[-1].min():.1f} to {accuracies[-1].max():.1f} %")
show(drawings.seeds(at, accuracies), "seeds", "Eight models, which differ in their seeds, trained by one function.")

# %% [markdown]
# ## One compiled step
#
# `torch.compile` turns a function into one graph and makes fast code of it. It compiles again when a shape changes, and
# a classifier that grows changes its shape in every phase. So a run trains a classifier of full width, with a **mask**
# of the classes seen. The mask is a tensor: its values change, its shape doesn't. Masked logits have probability 0 and
# gradient 0. So a phase with more classes brings another mask and no new graph. (`run.compile = true` compiles the whole
# step, which takes about a minute once. Here a backend that compiles nothing counts the graphs.)

# %%
graphs = []


def count(graph, inputs):
    graphs.append(graph)
    return graph.forward


def masked(head, features, labels, seen):
    return losses.cross_entropy(features @ head.T, labels, mask=seen)


def narrow(head, features, labels):
    return losses.cross_entropy(features @ head.T, labels)


def graphs_of(function, calls):
    """Returns the gradients of all calls, and how many graphs they needed."""
    torch._dynamo.reset()
    graphs.clear()
    gradient = torch.compile(
        lambda *args: torch.func.grad(function)(*args), fullgraph=True, backend=count, dynamic=False
    )
    return [gradient(*each) for each in calls], len(graphs)


features, head = torch.randn(8, 5, generator=generator), torch.randn(6, 5, generator=generator)
labels = torch.arange(8) % 2
wide, one = graphs_of(masked, [(head, features, labels, torch.arange(6) < seen) for seen in (2, 4, 6)])
grown, three = graphs_of(narrow, [(head[:seen].clone(), features, labels) for seen in (2, 4, 6)])
for with_mask, without in zip(wide, grown, strict=True):
    torch.testing.assert_close(with_mask[: len(without)], without)
print(f"three phases need {one} graph with a mask, {three} without; the gradients are the same")

# %% [markdown]
# | idea | function | test |
# | --- | --- | --- |
# | a model as two trees | `model.apply` | `tests/networks/test_resnet.py::test_outputs_gradients_and_statistics_match` |
# | freezing | `tree.partition` | `tests/test_model.py::test_freezing_is_a_choice_of_what_is_differentiated` |
# | the step | `step.simple_step` | `tests/training/test_step.py::test_the_simple_step_and_the_real_one_give_the_same_weights` |
# | many models | `optim.sgd` | `tests/test_optim.py::test_sgd_is_mapped_over_seeds` |
# | one graph | `classifier.pad` | `tests/test_classifier.py::test_one_compiled_graph_serves_growing_phases` |
#
# ## Several processes
#
# Each process computes the gradient of its images, all add them up, each takes the same step. Is that the step of one
# process? Not with batch norm: it normalises by the statistics of the images that it sees, and a process sees a part.
# So say what is meant: a batch is cut into **norm groups** of `optim.norm_batch` images that share statistics, and a
# process holds whole groups. Then
#
#     1 process with 4 groups of 8  =  2 processes with 2 groups of 8 each
#
# A step comes in two halves: `gradient` returns one vector of sums over images, `update` takes the vector. Between them
# processes add up. Here both "processes" are in this one; the vectors are the real ones. What the code needs for that:
#
# - `stage`: one training of a phase: a loss, which images, which parameters. `.main` of a method is the first of them.
# - `network`: the functions of the model. `preprocess`: makes bytes into normalised numbers, by a mean and a deviation.
# - `classes_of([4], 0)`: the masks of phase 0 in a run with one phase of 4 classes.
# - `begun`: the state of a training before its first step: params, state, and the optimiser's state.
# - `parts.gradient(begun, None, batch, classes)`: the vector; None, since replay has no teacher.

# %%
from cil_func import methods
from cil_func.data.batches import Batch
from cil_func.networks.network import Network
from cil_func.networks.outputs import classes_of
from cil_func.parallel import batch_split
from cil_func.training import step as training_step
from cil_func.training import step_state
from cil_func.training.preprocess import Preprocess

network = Network("resnet20", num_classes=4, num_phases=1, image_size=(8, 8))
stage = methods.make("replay", methods.Options()).main
preprocess = Preprocess(torch.full((3,), 0.5).double(), torch.full((3,), 0.25).double())
pixels = torch.randint(0, 256, (32, 8, 8, 3), generator=generator, dtype=torch.uint8)
batch, classes = Batch(pixels, torch.arange(32) % 4), classes_of([4], 0)
begun = step_state.start(stage, optimiser, params, state)  # the training before its first step


def vector(own: slice, norm_batch: int):
    parts = training_step.make(stage, network, optimiser, preprocess, dtype=torch.float64, norm_batch=norm_batch)
    return parts.gradient(begun, None, Batch(batch.images[own], batch.labels[own]), classes)[0]


everything = slice(0, 32)
slices = [batch_split.slice_of_rank(rank, 2, batch_size=32, norm_batch=8) for rank in range(2)]
scale = vector(everything, 8).abs().max()
differences = {}
for norm_batch, name in ((8, "groups of 8"), (0, "no groups")):
    together = sum(vector(own, norm_batch) for own in slices)
    differences[name] = float((together - vector(everything, norm_batch)).abs().max() / scale)
print(f"groups of 8: equal within rounding, {differences['groups of 8'] < 1e-12}")
print(f"no groups: they differ, by {differences['no groups']:.3f} of the largest entry")
show(
    drawings.processes(32, 8, {"alone": [everything], "two": slices}),
    "processes",
    "A batch of 32 images in four norm groups, on one process and on two. Statistics never cross a frame.",
)

# %% [markdown]
# With real processes it is the launcher's line; a test runs one, two, three and four of them and compares weights,
# accuracies and exemplars: `tests/end_to_end/test_processes.py::test_any_number_of_processes_learns_the_same`.
#
# ```sh
# torchrun --nproc_per_node=2 train.py --set optim.batch_size=32 --set optim.norm_batch=16
# ```
#
# ## Your own loop
#
# You need neither `experiment` nor a configuration. The loop below is WA on the digits, from public functions alone.
# Five things to know:
#
# - Labels count classes in order of arrival: `scenario.train_labels`, not the data set's `train_targets`.
# - After `classifier.expand` shapes have changed: begin a new optimiser state.
# - Losses take logits as narrow as you have them; distillation gets the old columns, `logits[:, :num_old]`.
# - `batches.epoch_batches` gives pixels; `images.normalise` turns them into what a network is given.
# - Choose exemplars by features of un-augmented images in eval mode (chapter 3): `train=False`, and the images as they
#   are. The loop augments nothing. If yours does, augment what `epoch_batches` gives, not what `memory.choose` sees.

# %%
from cil_func import classifier, memory, metrics, rng
from cil_func.data import batches, scenario, sources
from cil_func.data.images import Resident, normalise
from cil_func.tutorial import whole_runs

digits = sources.load("digits")
train_images, test_images = torch.from_numpy(digits.train_images), torch.from_numpy(digits.test_images)
order = scenario.class_order("canonical", num_classes=10, class_names=digits.class_names)
cut = scenario.build(digits.train_targets, digits.test_targets, order, initial_increment=4, increment=3)
statistics = batches.channel_statistics(Resident(train_images), cut.phases[0].train_rows)
mean, std = map(torch.tensor, statistics)
net, schedule = whole_runs.perceptron(), optim.cosine(0.05, epochs=20)


def features(params, pixels):
    return net.apply(params["backbone"], {}, normalise(pixels, mean, std), train=False)[0]  # (B, D)


def objective(params, teacher, pixels, labels, num_old):
    logits = classifier.apply(params["classifier"], features(params, pixels))
    if not num_old:
        return losses.cross_entropy(logits, labels)
    taught = classifier.apply(teacher["classifier"], features(teacher, pixels))
    return losses.cross_entropy(logits, labels) + 2 * losses.distillation(logits[:, :num_old], taught, temperature=2.0)


params = {
    "backbone": net.init(0, image_size=(8, 8))[0],
    "classifier": classifier.init(1, net.feature_dim(), len(cut.phases[0].classes)),
}
exemplars, teacher, by_phase, top1, num_old = {}, None, [], [], 0
for phase in cut.phases:
    num_new = len(phase.classes)
    if num_old:
        grown = classifier.expand(params["classifier"], rng.fold_in(2, phase.index), num_new)
        teacher, params = params, {**params, "classifier": grown}
    opt_state, rows = optimiser.init(params), torch.cat([phase.train_rows, memory.rows(exemplars)])
    for epoch in range(20):
        key = rng.fold_in(3, phase.index, epoch)
        for pixels, labels in batches.epoch_batches(train_images, cut.train_labels, rows, batch_size=32, key=key):
            grads = torch.func.grad(objective)(params, teacher, pixels, labels, num_old)
            updates, opt_state = optimiser.update(grads, opt_state, params, torch.tensor(schedule(epoch)))
            params = optim.apply_updates(params, updates)
    if num_old:
        params = {**params, "classifier": classifier.align(params["classifier"], num_new)[0]}
    num_old, chosen = num_old + num_new, {}
    quota = memory.quota(num_old, size=100)
    for label in range(num_old - num_new, num_old):
        own = torch.nonzero(cut.train_labels == label)[:, 0]
        chosen[label] = own[memory.choose(features(params, train_images[own]), quota)]
    exemplars = memory.update(exemplars, chosen, quota)
    tested = torch.nonzero(cut.test_labels < num_old)[:, 0]
    scores = classifier.apply(params["classifier"], features(params, test_images[tested]))
    top1.append(metrics.accuracy(scores, cut.test_labels[tested]))
    of_phase = torch.bucketize(cut.test_labels[tested], torch.tensor([4, 7]), right=True)
    right = metrics.correct(scores, cut.test_labels[tested])
    by_phase.append(metrics.per_phase_accuracy(right, of_phase, phase.index + 1))
print(f"top-1 by phase {[round(value, 1) for value in top1]}, {memory.size(exemplars)} exemplars")
show(
    drawings.loop(top1, by_phase),
    "loop",
    "What the loop above has learned: the accuracy on all classes seen, and on the classes of each phase.",
)

# %% [markdown]
# Replace `net` by `model.init(0, "resnet20", 4)` and `model.apply`, and the same loop trains a ResNet. A model that
# `train.py` has finished needs three lines:
#
# ```python
# import cil_func
#
# predict = cil_func.load("runs/digits")
# probabilities = predict(["image.png"])  # (1, K), one column for each of predict.class_names
# ```
#
# | idea | function | test |
# | --- | --- | --- |
# | norm groups | `batch_split.slice_of_rank` | `tests/parallel/test_processes.py::test_the_vectors_of_all_processes_add_up_to_that_of_one` |
# | batches | `batches.epoch_batches` | `tests/data/test_batches.py::test_batches_of_an_epoch_are_those_of_its_chunks_one_by_one` |
# | normalising | `images.normalise` | `tests/data/test_images.py::test_normalised_images_by_hand` |
#
# ## Predict, then run
#
# **Question 1.** A batch has 512 images and `norm_batch` is 128. How many images does each of 4 processes hold, and how
# many if there are 3?

# %% answer
answer_1 = {}
for size in (4, 3):
    parts = [batch_split.slice_of_rank(rank, size, batch_size=512, norm_batch=128) for rank in range(size)]
    answer_1[size] = [own.stop - own.start for own in parts]
print(f"{answer_1}: whole groups only. Four groups on three processes: two of them hold two each, the third none.")

# %% [markdown]
# **Question 2.** Freeze everything but the classifier and take a step with `train=True`. Do the running statistics of
# batch norm in the backbone still move?

# %% answer
_, _, moved = model.apply(tree.merge(classifier_only, rest), state, inputs, train=True)
answer_2 = not torch.equal(tree.to_vector(moved), tree.to_vector(state))
print(f"moved: {answer_2}. Statistics are state, not parameters. train=False leaves them alone.")
