"""A-GEM: whole runs against a conventional loop, and its projection by arithmetic."""

import oracle
import replay_oracle
import torch

from cil_func.methods import agem


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    run = oracle.learn(monkeypatch, "agem", "method.options.images=10")
    opposed = []

    def of_group(group, logits, labels, stored, images, old, seen):
        assert stored is None and len(images) == 10 and (labels < old).all()
        return replay_oracle.cross_entropy(logits, labels, old, seen)

    def combine(gradient, more):
        if not more:
            return gradient
        opposed.append((gradient @ more[0] < 0).item())
        return gradient - gradient @ more[0] / (more[0] @ more[0]) * more[0] if opposed[-1] else gradient

    for _ in replay_oracle.train_phases(run, replay_oracle.cross_entropy, of_group, combine):
        pass
    assert 3 < sum(opposed) < len(opposed) - 3
    assert run.extra == {}


def test_projection():
    """(1, 2) against (-1, 0): 1 (1, 0) is taken away. Against (1, -0.5) the product is 0, which is allowed."""
    gradient = torch.tensor([1.0, 2.0])
    for reference, expected in (([-1.0, 0.0], [0.0, 2.0]), ([-2.0, 0.0], [0.0, 2.0]), ([1.0, -0.5], [1.0, 2.0])):
        assert agem.project(gradient, torch.tensor([reference])).tolist() == expected
    # (1, 2) (2, -4) = -6, the length squared is 20: 0.3 (2, -4) is added
    torch.testing.assert_close(agem.project(gradient, torch.tensor([[2.0, -4.0]])), torch.tensor([1.6, 0.8]))


def test_without_exemplars_the_gradient_stays_as_it_is():
    gradient = torch.tensor([1.0, -2.0])
    assert torch.equal(agem.project(gradient, torch.zeros(1, 2)), gradient)
