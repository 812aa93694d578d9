"""PODNet's classifier: its logits by loops, what it draws, and the centres of well separated points."""

import math

import pytest
import torch

from cil_func import rng
from cil_func.networks import proxies

PROXIES, WIDTH = 3, 4
HEAD = proxies.head(PROXIES)


def points(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_logits_are_soft_nearest_proxies_by_loops():
    features, weight, eta = points(5, 1), points(2 * PROXIES, 2).view(2, PROXIES, WIDTH), 1.7
    shared = {"eta": torch.tensor(eta, dtype=torch.float64)}
    found, aux = HEAD.apply({"weight": weight}, shared, features, None)
    assert found.shape == (5, 2) and aux == {}
    for row, feature in zip(found.tolist(), features.tolist(), strict=True):
        for logit, of_class in zip(row, weight.tolist(), strict=True):
            terms = []
            for proxy in of_class:
                lengths = [math.sqrt(sum(value**2 for value in each)) for each in (feature, proxy)]
                gaps = [a / lengths[0] - b / lengths[1] for a, b in zip(feature, proxy, strict=True)]
                terms.append(-sum(gap**2 for gap in gaps))
            weights = [math.exp(term) for term in terms]
            expected = sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)
            assert logit == pytest.approx(eta * expected, rel=1e-12)


def test_lengths_count_nowhere_and_rows_of_classes_to_come_give_a_constant():
    features, weight, shared = points(5, 1), points(6, 2).view(2, PROXIES, WIDTH), {"eta": torch.tensor(3.0).double()}
    lengths = torch.tensor([[[2.0]], [[0.1]]]).double()
    torch.testing.assert_close(
        HEAD.apply({"weight": lengths * weight}, shared, 7 * features, None)[0],
        HEAD.apply({"weight": weight}, shared, features, None)[0],
    )
    padded = torch.cat([weight, torch.zeros(1, PROXIES, WIDTH)])
    assert (HEAD.apply({"weight": padded}, shared, features, None)[0][:, 2] == -6).all()
    slope = torch.func.grad(lambda rows: HEAD.apply({"weight": rows}, shared, features, None)[0].sum())(padded)
    assert slope.isfinite().all()


def test_proxies_are_drawn_from_a_normal_distribution_of_variance_one_by_width():
    drawn = proxies.draw(3, 64, 50, 10)["weight"]
    assert drawn.shape == (50, 10, 64) and drawn.dtype == torch.float32
    assert drawn.mean().abs() < 0.003 and drawn.std().item() == pytest.approx(1 / 8, rel=0.02)
    assert torch.equal(drawn, proxies.draw(3, 64, 50, 10)["weight"])
    assert not torch.equal(drawn, proxies.draw(4, 64, 50, 10)["weight"])
    assert proxies.scale(3, 64, 50, 5)["eta"].item() == 1


def test_expanding_keeps_the_old_rows_to_the_bit():
    rows = {"weight": points(6, 2).view(2, PROXIES, WIDTH)}
    grown = HEAD.expand(rows, 5, 4)["weight"]
    assert grown.shape == (6, PROXIES, WIDTH) and grown.dtype == torch.float64
    assert torch.equal(grown[:2], rows["weight"]) and grown[2:].abs().min() > 0


def clusters(directions: list, count: int, *, spread: float = 0.02, seed: int = 0) -> torch.Tensor:
    """Points of different lengths about each direction, in turn."""
    noise = spread * points(count * len(directions), seed)
    lengths = 1 + torch.arange(count * len(directions))[:, None] % 3
    return lengths * (torch.tensor(directions, dtype=torch.float64).repeat(count, 1) + noise)


FIRST, SECOND = ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 0, 1], [-1, 0, 0, 0], [0, -1, 0, 0]])


def test_centres_are_the_means_of_separated_points_at_the_mean_length_of_the_old_proxies():
    """Two old classes, whose proxies have lengths 1, 2, 3 and 4, 5, 9: mean 4. Two new ones, three heaps each."""
    old = torch.eye(WIDTH).double()[:1] * torch.tensor([1.0, 2, 3, 4, 5, 9]).double()[:, None]
    rows = {"weight": torch.cat([old.view(2, PROXIES, WIDTH), points(6, 8).view(2, PROXIES, WIDTH)])}
    features = torch.cat([clusters(FIRST, 20), clusters(SECOND, 20, seed=1)])
    labels = torch.tensor([2] * 60 + [3] * 60)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(6))
    found = proxies.centres(rows, features[order], labels[order], 5)["weight"]
    assert torch.equal(found[:2], rows["weight"][:2])
    for label, directions in ((2, FIRST), (3, SECOND)):
        own = features[labels == label]
        units = own / own.norm(dim=1, keepdim=True)
        expected = torch.stack([4 * units[heap::3].mean(0) for heap in range(3)])   # heaps come in turn
        places = (found[label] @ torch.tensor(directions).double().T).argmax(1)    # which heap a proxy is of
        assert sorted(places.tolist()) == [0, 1, 2]
        torch.testing.assert_close(found[label], expected[places], rtol=0, atol=1e-12)


def test_a_class_with_fewer_different_images_than_proxies_repeats_its_centres():
    rows = {"weight": points(6, 2).view(2, PROXIES, WIDTH)}
    features = torch.tensor([[2.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 3.0, 0, 0]], dtype=torch.float64)
    found = proxies.centres(rows, features, torch.ones(3, dtype=torch.int64), 5)["weight"][1]
    length = rows["weight"][0].norm(dim=1).mean()
    assert sorted(torch.unique(found, dim=0).tolist()) == [[0, length, 0, 0], [length, 0, 0, 0]]
    alone = proxies.centres(rows, features[2:], torch.ones(1, dtype=torch.int64), 5)["weight"][1]
    assert alone.tolist() == [[0, length, 0, 0]] * PROXIES


def test_centres_depend_on_the_key_alone_and_arguments_stay_as_they_are():
    rows = {"weight": points(6, 2).view(2, PROXIES, WIDTH)}
    before, features, labels = rows["weight"].clone(), points(300, 3), torch.ones(300, dtype=torch.int64)
    found = [proxies.centres(rows, features, labels, key)["weight"] for key in (5, 5, rng.fold_in(5, "other"))]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(rows["weight"], before)
