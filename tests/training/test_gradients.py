"""The update of a step by vectors and by trees, with one_conv's small network."""

from dataclasses import replace

import one_conv
import pytest
import torch

from cil_func import optim, tree
from cil_func.training import step, step_state


def walked(optimiser, turned=lambda part: part):
    """The train state after three steps of ewc, with `turned` applied to both states before each."""
    method, classes, begun = one_conv.begin("ewc")
    run = step.join(one_conv.parts(method, optimiser=optimiser))
    train_state = step_state.start(method.main, optimiser, begun.params, begun.state, begun.extra)
    for number in range(3):
        train_state = train_state._replace(state=turned(train_state.state), opt_state=turned(train_state.opt_state))
        batch = one_conv.draw(6, classes, number)
        train_state, _ = run(train_state, None, batch, classes, torch.tensor(0.1, dtype=one_conv.DTYPE))
    return train_state


def backwards(part):
    """A tree with the keys of its dicts the other way round, as a file may have them."""
    if isinstance(part, dict):
        return {key: backwards(part[key]) for key in reversed(part)}
    return part


def assert_same(mine, theirs):
    mine, theirs = (tree.to_paths(each._asdict()) for each in (mine, theirs))
    assert mine.keys() == theirs.keys()
    for path, leaf in mine.items():
        torch.testing.assert_close(leaf, theirs[path], rtol=0, atol=0)


OPTIMISERS = [
    optim.sgd(momentum=0.9, weight_decay=0.01),
    optim.sgd(momentum=0.9, weight_decay=0.01, nesterov=True),
    optim.adamw(weight_decay=0.01),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_update_by_vectors_has_the_bits_of_one_by_trees(optimiser):
    assert optimiser.takes_vectors
    assert_same(walked(optimiser), walked(replace(optimiser, takes_vectors=False)))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("takes_vectors", [False, True])
def test_the_order_of_keys_does_not_count(optimiser, takes_vectors):
    chosen = replace(optimiser, takes_vectors=takes_vectors)
    assert_same(walked(chosen, turned=backwards), walked(chosen))


def test_updates_may_come_in_another_order():
    plain = optim.sgd(momentum=0.9)

    def update(grads, opt_state, params, rate):
        updates, opt_state = plain.update(grads, opt_state, params, rate)
        return backwards(updates), opt_state

    assert_same(walked(optim.Optimiser(plain.init, update)), walked(plain))


def test_a_mask_leaves_no_vector_to_take():
    assert not optim.make("sgd", weight_decay=0.1, no_decay=("*.bias",)).takes_vectors
    assert not optim.make("adamw", weight_decay=0.1, no_decay=("*.bias",)).takes_vectors
