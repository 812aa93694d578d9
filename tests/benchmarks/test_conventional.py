"""The conventional trainer and this package are compared with each other, formula by formula."""

import numpy as np
import pytest
import reference
import torch

from benchmarks import conventional, measure
from cil_func import classifier, config, herding, losses, model
from cil_func.data import scenario, sources


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on a busy machine wait for each other at every small operation: 60 seconds instead of 4."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nets(num_classes=5):
    """Returns the same weights as the conventional network, the tests' reference network, and this package's trees."""
    params, state = model.init(3, "resnet20", num_classes)
    oracle, net = reference.load(20, params, state), conventional.Net(20, num_classes)
    values = oracle.state_dict().values()  # both register layers in the order of the forward pass
    net.load_state_dict(dict(zip(net.state_dict(), values, strict=True)))
    return net, oracle, (params, state)


def images(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


@pytest.mark.parametrize("train", [True, False])
def test_network_is_the_oracle(train):
    net, oracle, _ = nets()
    pixels, labels = images()
    for found, expected in zip(net.train(train)(pixels), oracle.train(train)(pixels), strict=True):
        torch.testing.assert_close(found, expected)
    for network in (net, oracle):
        torch.nn.functional.cross_entropy(network(pixels)[0], labels).backward()
    for found, expected in zip(net.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_growing_keeps_the_old_rows():
    net, _, _ = nets(num_classes=5)
    weight, bias = net.head.weight.detach().clone(), net.head.bias.detach().clone()
    net.grow(3)
    assert net.head.weight.shape == (8, 64) and net.head.bias.shape == (8,)
    assert torch.equal(net.head.weight[:5], weight) and torch.equal(net.head.bias[:5], bias)


@pytest.mark.parametrize(("combination", "weight"), [("sum", 2.0), ("convex", "dynamic"), ("convex", 0.25)])
def test_a_step_is_sgd_on_our_loss(combination, weight):
    """The first step moves each parameter by -rate (gradient of the package's losses + decay * parameter)."""
    (net, oracle, _), (teacher, taught, _) = nets(num_classes=5), nets(num_classes=3)
    pixels, labels = images()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step = conventional.make_step(
        net, teacher.eval(), optimiser, temperature=2.0, kd_weight=weight, kd_combination=combination
    )
    loss = step(pixels, labels)
    logits = oracle(pixels)[0]
    ce = losses.cross_entropy(logits, labels)
    kd = losses.distillation(logits[:, :3], taught.eval()(pixels)[0].detach(), temperature=2.0)
    share = 3 / 5 if weight == "dynamic" else weight
    expected = ce + share * kd if combination == "sum" else (1 - share) * ce + share * kd
    torch.testing.assert_close(loss, expected.detach())
    expected.backward()
    for moved, start in zip(net.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.1 * (start.grad + 5e-4 * start), rtol=1e-4, atol=1e-6)


def test_a_step_at_its_best_is_the_same_step_in_bfloat16():
    found = []
    for best in (False, True):
        (net, _, _), (teacher, _, _) = nets(num_classes=5), nets(num_classes=3)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        step = conventional.make_step(net, teacher.eval(), optimiser, autocast=best, channels_last=best)
        found.append(step(*images()).item())
        assert net.backbone[0].weight.dtype == torch.float32
    assert found[1] == pytest.approx(found[0], rel=0.02) and found[0] != found[1]


def test_aligning_equals_classifier_align():
    head = classifier.init(1, 64, 7)
    linear = torch.nn.Linear(64, 7)
    linear.load_state_dict(head)
    aligned, gamma = classifier.align(head, 3)
    assert conventional.align(linear, 3) == pytest.approx(gamma.item())
    torch.testing.assert_close(linear.weight.detach(), aligned["weight"])
    assert torch.equal(linear.bias, head["bias"])


@pytest.mark.parametrize("count", [0, 1, 20, 60])
def test_herding_picks_the_same_rows_as_herding_herd(count):
    features = torch.nn.functional.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(2))).double()
    assert conventional.herd(features.numpy(), count) == herding.herd(features, count, normalize=False).tolist()


@pytest.fixture(scope="module")
def learnable(tmp_path_factory):
    """Returns (configuration, data) of 7 classes in phases of 3, 2, 2."""
    path = tmp_path_factory.mktemp("data") / "images"
    measure.write_images(path, classes=7, train=40, test=10, size=8)
    overrides = (
        "data.name=image_folder", f"data.path={path}", "data.image_size=0", "data.initial_increment=3",
        "data.increment=2", "augment.crop_padding=1", "augment.auto_augment=rand-m1-n1", "model.backbone=resnet20",
        "memory.size=70", "method.kd_combination=sum", "method.kd_weight=2", "optim.epochs=6",
        "optim.batch_size=16", "optim.norm_batch=0", "optim.learning_rate=0.05", "run.device=cpu",
    )  # fmt: skip
    return config.load("cifar", overrides), sources.load("image_folder", path=str(path))


def test_labels_and_phases_are_continuums(learnable):
    settings, data = learnable
    train_labels, test_labels, sizes = conventional.split(settings, data)
    order = np.random.RandomState(1993).permutation(7).tolist()
    expected = scenario.build(data.train_targets, data.test_targets, order, initial_increment=3, increment=2)
    assert train_labels.tolist() == expected.train_labels.tolist()
    assert test_labels.tolist() == expected.test_labels.tolist()
    assert sizes == [len(phase.classes) for phase in expected.phases] == [3, 2, 2]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [({}, [0.1, 0.075, 0.025]), ({"schedule": "milestones", "milestones": (1, 2)}, [0.1, 0.01, 0.001])],
)
def test_rates(schedule, expected):
    """The cosine over 3 epochs: 0.1 (1 + cos(pi e / 3)) / 2."""
    settings = config.from_dict({"optim": {"epochs": 3, "learning_rate": 0.1, **schedule}}).optim
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler, rates = conventional.make_scheduler(optimiser, settings), []
    for _ in range(3):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


def test_a_run_learns_and_returns_what_the_benchmark_needs(learnable):
    told = []
    results = conventional.run(*learnable, emit=told.append, workers=0)
    assert told == results["phases"]
    assert [row["memory_size"] for row in told] == [3 * 23, 5 * 14, 7 * 10]
    assert [row["gamma"] is None for row in told] == [True, False, False]
    for row in told:
        assert row["seconds"].keys() == {"train", "select", "evaluate"}
        assert 0 <= row["top1"] <= 100 and row["nme_top1"] > 1.5 * 100 / 7
    assert told[0]["top1"] > 50  # three classes
    assert results["last_accuracy"] == told[2]["top1"]
    assert results["average_incremental_accuracy"] == pytest.approx(sum(row["top1"] for row in told) / 3)


def test_workers_load_the_same_images(learnable):
    settings, data = learnable
    found = []
    for workers in (0, 2):
        learner = conventional.Learner(settings, data, workers=workers, autocast=False, channels_last=False)
        own = conventional.Images(data.train_images[:30], data.train_targets[:30], learner.plain)
        ((pixels, labels),) = learner.loader(own, 30)
        found.append(pixels)
        assert labels.tolist() == data.train_targets[:30].tolist()
    assert torch.equal(*found)
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.data.mean, settings.data.std))
    expected = (torch.from_numpy(data.train_images[0]).permute(2, 0, 1) / 255 - mean) / std
    torch.testing.assert_close(found[0][0], expected)


@pytest.mark.parametrize(
    "override", ["method.name=replay", "optim.norm_batch=8", "optim.warmup_epochs=1", "memory.selection=random"]
)
def test_a_recipe_that_is_not_written_is_refused(learnable, override):
    settings = config.load("cifar", ["optim.batch_size=128", "optim.norm_batch=0", override])
    with pytest.raises(ValueError, match=override.partition("=")[0]):
        conventional.run(settings, learnable[1])
