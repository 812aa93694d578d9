"""SGD, AdamW and schedules against torch.optim."""

import pytest
import torch

from cil_func import optim, tree


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "options"),
    [
        (0.0, 0.0, {}), (0.9, 0.0, {}), (0.9, 5e-4, {}), (0.9, 5e-4, {"nesterov": True}),
        (0.9, 0.1, {"no_decay": ("b.*",)}), (0.9, 0.1, {"nesterov": True, "no_decay": ("a", "b.c")}),
    ],
)  # fmt: skip
def test_sgd_takes_the_steps_of_torch(momentum, weight_decay, options):
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randn(shape, generator=generator).double() for shape in ((3, 2), (4,)))
    params = {"a": a, "b": {"c": c}}
    theirs = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    without = [path in ("b.c", "a")[: len(options.get("no_decay", ()))] for path in tree.to_paths(params)]
    groups = [
        {"params": [leaf], "weight_decay": 0.0 if bare else weight_decay}
        for leaf, bare in zip(theirs, without, strict=True)
    ]
    nesterov = options.get("nesterov", False)
    reference = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov)
    optimiser = optim.make("sgd", momentum=momentum, weight_decay=weight_decay, **options)
    opt_state = optimiser.init(params)
    for rate in (0.1, 0.1, 0.05, 0.01):
        grads = tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).double(), params)
        for parameter, grad in zip(theirs, tree.leaves(grads), strict=True):
            parameter.grad = grad
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        arguments = (grads, opt_state, params, torch.tensor(rate, dtype=torch.float64))
        before = tree.map(torch.clone, arguments)
        updates, opt_state = optimiser.update(*arguments)
        params = optim.apply_updates(params, updates)
        assert all(map(torch.equal, tree.leaves(arguments), tree.leaves(before)))  # nothing is written in place
    for mine, other in zip(tree.leaves(params), theirs, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-12, atol=1e-14)


def one_step(rate, momentum, weight_decay, *, grads, velocity, params):
    """One update of sgd from given velocities: the new params."""
    optimiser = optim.sgd()
    opt_state = optimiser.init(params) | {
        "momentum": momentum, "weight_decay": weight_decay, "velocity": velocity
    }  # fmt: skip
    updates, _ = optimiser.update(grads, opt_state, params, rate)
    return optim.apply_updates(params, updates)


def drawn_trees():
    generator = torch.Generator().manual_seed(0)
    return {
        name: {"a": torch.randn(3, 2, generator=generator).double(), "b": torch.randn(4, generator=generator).double()}
        for name in ("grads", "velocity", "params")
    }


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="eager")])
def test_sgd_is_mapped_over_rates_momenta_and_decays(wrap):
    """Three runs at once are three runs one after the other."""
    trees = drawn_trees()
    numbers = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.5, 0.9], [0.0, 1e-2, 1e-1]], dtype=torch.float64)
    mapped = wrap(torch.func.vmap(lambda *three: one_step(*three, **trees)))(*numbers)
    for run, three in enumerate(numbers.T):
        alone = one_step(*three, **trees)
        for path in ("a", "b"):
            torch.testing.assert_close(mapped[path][run], alone[path], rtol=1e-12, atol=1e-14)


def test_sgd_is_mapped_over_seeds():
    """Params, gradients and velocities of three seeds as one more axis."""
    stacked = {name: tree.map(lambda leaf: torch.stack([leaf, 2 * leaf, -leaf]), part)
               for name, part in drawn_trees().items()}  # fmt: skip
    three = torch.tensor([0.1, 0.9, 1e-2], dtype=torch.float64).unbind()
    mapped = torch.func.vmap(lambda parts: one_step(*three, **parts))(stacked)
    for seed in range(3):
        alone = one_step(*three, **tree.map(lambda leaf, seed=seed: leaf[seed], stacked))
        torch.testing.assert_close(mapped["a"][seed], alone["a"], rtol=1e-12, atol=1e-14)


def test_a_rate_a_momentum_and_a_decay_can_be_learned():
    """The derivative of the sum of new params is arithmetic: params - rate (momentum v + g + decay params)."""
    trees = drawn_trees()
    rate, momentum, decay = (torch.tensor(value, dtype=torch.float64) for value in (0.1, 0.9, 0.01))
    total = lambda *three: sum(leaf.sum() for leaf in one_step(*three, **trees).values())  # noqa: E731
    found = torch.func.grad(total, argnums=(0, 1, 2))(rate, momentum, decay)
    grads, velocity, params = (sum(leaf.sum() for leaf in trees[name].values()) for name in trees)
    expected = (-(momentum * velocity + grads + decay * params), -rate * velocity, -rate * params)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    learned = rate.clone().requires_grad_()
    total(learned, momentum, decay).backward()
    torch.testing.assert_close(learned.grad, expected[0], rtol=1e-12, atol=1e-14)


# --- AdamW


def decays(path):
    """What a mask does in practice: norms and biases aren't decayed."""
    return path not in ("b.bias", "scale")


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")])
@pytest.mark.parametrize("frozen", [(), ("a", "b.bias")])
@pytest.mark.parametrize("mask", [None, decays])
def test_adamw_takes_the_steps_of_torch(wrap, frozen, mask):
    """Twenty of them, with another rate each, in two groups of parameters where not all are decayed."""
    generator = torch.Generator().manual_seed(0)
    drawn = lambda shape: torch.randn(shape, generator=generator).double()  # noqa: E731
    params = {"a": drawn((3, 2)), "b": {"bias": drawn((4,)), "weight": drawn((2, 2))}, "scale": drawn(())}
    theirs = {path: leaf.clone().requires_grad_(path not in frozen) for path, leaf in tree.to_paths(params).items()}
    moving = [path for path in theirs if path not in frozen]
    groups = [
        {"params": [theirs[path] for path in moving if mask is None or mask(path)], "weight_decay": 0.3},
        {"params": [theirs[path] for path in moving if mask is not None and not mask(path)], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.8, 0.95), eps=1e-6)
    optimiser = optim.adamw(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, decay_mask=mask)
    chosen, fixed = tree.partition(params, lambda path: path not in frozen)
    opt_state, update = optimiser.init(chosen), wrap(optimiser.update)
    for step in range(20):
        grads = tree.map(lambda leaf: drawn(leaf.shape), chosen)
        for path, grad in tree.to_paths(grads).items():
            theirs[path].grad = grad
        rate = 0.1 / (step + 1)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        arguments = (grads, opt_state, chosen, torch.tensor(rate, dtype=torch.float64))
        before = tree.map(torch.clone, arguments)
        updates, opt_state = update(*arguments)
        chosen = optim.apply_updates(chosen, updates)
        assert all(map(torch.equal, tree.leaves(arguments), tree.leaves(before)))  # nothing is written in place
    for path, mine in tree.to_paths(tree.merge(chosen, fixed)).items():
        torch.testing.assert_close(mine, theirs[path].detach(), rtol=1e-12, atol=1e-12)


def one_adamw_step(rate, beta1, beta2, decay, *, grads, params):
    """The second update of two with the same gradients: the new params."""
    optimiser = optim.adamw()
    opt_state = optimiser.init(params) | {"beta1": beta1, "beta2": beta2, "weight_decay": decay}
    for _ in range(2):
        updates, opt_state = optimiser.update(grads, opt_state, params, rate)
        params = optim.apply_updates(params, updates)
    return params


ADAM = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.5, 0.9], [0.9, 0.99, 0.999], [0.0, 1e-2, 1e-1]], dtype=torch.float64)


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="eager")])
def test_adamw_is_mapped_over_rates_betas_and_decays(wrap):
    trees = drawn_trees()
    del trees["velocity"]
    mapped = wrap(torch.func.vmap(lambda *four: one_adamw_step(*four, **trees)))(*ADAM)
    for run, four in enumerate(ADAM.T):
        alone = one_adamw_step(*four, **trees)
        for path in ("a", "b"):
            torch.testing.assert_close(mapped[path][run], alone[path], rtol=1e-12, atol=1e-14)


def test_adamws_numbers_can_be_learned():
    """Derivatives against differences; that by the rate also by `backward`."""
    trees = drawn_trees()
    del trees["velocity"]
    total = lambda *four: sum(leaf.sum() for leaf in one_adamw_step(*four, **trees).values())  # noqa: E731
    numbers = torch.tensor([0.1, 0.5, 0.9, 0.01], dtype=torch.float64)
    found = torch.func.grad(total, argnums=(0, 1, 2, 3))(*numbers)
    for at, derivative in enumerate(found):
        step = torch.zeros(4, dtype=torch.float64)
        step[at] = 1e-6
        difference = (total(*(numbers + step)) - total(*(numbers - step))) / 2e-6
        torch.testing.assert_close(derivative, difference, rtol=1e-6, atol=1e-8)
    rate = numbers[0].clone().requires_grad_()
    total(rate, *numbers[1:]).backward()
    torch.testing.assert_close(rate.grad, found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", optim.TABLE)
def test_parameters_keep_their_dtype_and_none_at_all_is_fine(name):
    """A scale is a 0-d leaf: two 0-d tensors of different dtypes would become the wider one."""
    optimiser = optim.make(name, momentum=0.9, weight_decay=0.1)
    params = {"scale": torch.ones(()), "weight": torch.ones(3)}
    updates, opt_state = optimiser.update(params, optimiser.init(params), params, torch.tensor(0.1))
    assert {leaf.dtype for leaf in tree.leaves(optim.apply_updates(params, updates))} == {torch.float32}
    assert tree.map(lambda leaf: leaf.dtype, opt_state) == tree.map(lambda leaf: leaf.dtype, optimiser.init(params))
    assert optimiser.update({}, optimiser.init({}), {}, torch.tensor(0.1))[0] == {}


def test_optimisers_by_name():
    params = {"head": {"weight": torch.ones(2), "bias": torch.ones(2)}}
    grads = tree.map(torch.zeros_like, params)

    def updates(name, **settings):
        optimiser = optim.make(name, **settings)
        return optimiser.update(grads, optimiser.init(params), params, torch.tensor(0.1))[0]["head"]

    assert updates("sgd", momentum=0.9, weight_decay=0.5)["bias"].tolist() == pytest.approx([-0.05] * 2)
    found = updates("adamw", momentum=0.9, weight_decay=0.5, betas=(0.5, 0.5), no_decay=("*.bias",))
    assert found["weight"].tolist() == pytest.approx([-0.05] * 2) and found["bias"].tolist() == [0, 0]
    assert float(optim.make("adamw", betas=(0.5, 0.25)).init(params)["beta2"]) == 0.25
    with pytest.raises(ValueError, match='no optimiser "adam"; one of sgd, adamw'):
        optim.make("adam")
    with pytest.raises(TypeError, match="amsgrad"):
        optim.make("sgd", amsgrad=True)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_patterns_of_what_is_not_decayed_can_be_compiled(name):
    params = {"head": {"weight": torch.ones(2), "bias": torch.ones(2)}}
    optimiser = optim.make(name, weight_decay=0.5, no_decay=("*.bias",))
    compiled = torch.compile(optimiser.update, fullgraph=True, backend="eager")
    grads, rate = tree.map(torch.zeros_like, params), torch.tensor(0.1)
    found, _ = compiled(grads, optimiser.init(params), params, rate)
    assert found["head"]["weight"].tolist() == pytest.approx([-0.05] * 2) and found["head"]["bias"].tolist() == [0, 0]


# --- Schedules


def torch_rates(make, epochs: int) -> list[float]:
    """What a torch scheduler stepped once an epoch sets."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimiser)
    rates = []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs():
    schedule = optim.cosine(0.1, epochs=12)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12), 12)
    assert [schedule(epoch) for epoch in range(12)] == pytest.approx(expected)


def test_milestones_are_torchs():
    schedule = optim.milestones(0.1, at=(3, 7), factor=0.1)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 7]), 10)
    assert [schedule(epoch) for epoch in range(10)] == pytest.approx(expected)


def test_constant_stays_where_its_warmup_ends():
    schedule = optim.constant(0.3, warmup_epochs=2)
    assert [schedule(epoch) for epoch in range(5)] == pytest.approx([0.15, 0.3, 0.3, 0.3, 0.3])


def test_warmup_rises_in_equal_steps_and_then_hands_over():
    schedule = optim.cosine(0.8, epochs=8, warmup_epochs=4)
    assert [schedule(epoch) for epoch in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule(4) == pytest.approx(0.8)  # the cosine's top
    assert schedule(6) == pytest.approx(0.4)  # and its middle


def test_a_cosine_of_no_epochs_after_the_warm_up_is_a_number():
    assert optim.cosine(0.1, epochs=3, warmup_epochs=3)(3) == 0.1
    assert optim.cosine(0.1, epochs=0)(0) == 0.1


def test_milestones_may_come_in_any_order():
    rates = [optim.milestones(1.0, at=at, factor=0.5)(epoch) for at in ([5, 2], [2, 5]) for epoch in range(7)]
    assert rates[:7] == rates[7:] == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
