"""RWalk: whole runs against a conventional loop, and a walk of one weight by hand."""

import oracle
import path_oracle
import pytest
import torch

from cil_func import methods
from cil_func.networks import outputs

DAMPING, DECAY, STRENGTH = 1e-3, 0.7, 3.0


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    """Six and nine steps a phase: with windows of four steps the last one is shorter."""
    every = 4
    run = oracle.learn(
        monkeypatch, "rwalk", f"method.options.strength={STRENGTH}", f"method.options.every={every}",
        f"method.options.decay={DECAY}", f"method.options.damping={DAMPING}",
    )  # fmt: skip
    window, gathered, phases = [], {}, []  # (gradients, moves) of each step; each window's part of the score

    def close(walk):
        for name, info in walk.more["fisher"].items():
            squares = torch.stack([grads[name] ** 2 for grads, _ in window]).mean(0)
            info.copy_(DECAY * squares + (1 - DECAY) * info)
            gain = sum(-grads[name] * moves[name] for grads, moves in window)
            move = sum(moves[name] for _, moves in window)
            gathered.setdefault(name, []).append(torch.relu(gain / (0.5 * info * move**2 + DAMPING)))
        window.clear()

    def step(walk):
        window.append((walk.grads, walk.moves))
        if len(window) == every:
            close(walk)

    def finish(walk):
        assert 0 < len(window) < every
        close(walk)
        phases.append({name: sum(parts) for name, parts in gathered.items()})
        gathered.clear()
        walk.more["score"] = {
            name: (walk.more["score"][name] + own) / 2 if len(phases) > 1 else own for name, own in phases[-1].items()
        }
        walk.importance = {}
        for part in walk.more.values():
            largest = max(leaf.max() for leaf in part.values())
            for name, leaf in part.items():
                walk.importance[name] = walk.importance.get(name, 0) + leaf / largest

    net, walk = path_oracle.train_phases(run, step, finish, strength=2 * STRENGTH, more=("fisher", "score"))
    path_oracle.check(run, net, walk.more)


def walked(points, grads, *, old=0, score=0.0, **options):
    """What RWalk remembers of a weight that went through `points` by these gradients, after a phase."""
    made = methods.make("rwalk", methods.Options(), {"decay": 0.5, "damping": 1.0, **options})
    classes, tensor = outputs.classes_of([2, 2], old), lambda value: {"w": torch.tensor(value, dtype=torch.float64)}
    extra = made.extra.begin({"fisher": tensor(0.0), "score": tensor(score)}, tensor(points[0]), classes)
    for before, after, grad in zip(points, points[1:], grads, strict=False):
        extra = made.track(extra, tensor(before), tensor(after), tensor(grad), classes)
    extra = made.extra.after(extra, tensor(points[-1]), None, classes)
    return {name: part["w"].item() for name, part in extra.items()}


def test_windows_by_hand():
    """From 0 over 2 to 4, by gradients -2 and -4: F = (4 + 16) / 2 / 2 = 5, and 12 / (5 / 2 * 4^2 + 1) = 12 / 41."""
    assert walked([0.0, 2.0, 4.0], [-2.0, -4.0], every=2) == pytest.approx({"fisher": 5.0, "score": 12 / 41})
    # one step a window: F = 2, then (16 + 2) / 2 = 9; scores 4 / (1 * 4 + 1) and 8 / (9 / 2 * 4 + 1)
    found = walked([0.0, 2.0, 4.0], [-2.0, -4.0], every=1)
    assert found == pytest.approx({"fisher": 9.0, "score": 4 / 5 + 8 / 19})
    # the last window has one step: the first two make F 5, the third (4 + 5) / 2; it leads uphill
    found = walked([0.0, 2.0, 4.0, 3.0], [-2.0, -4.0, -2.0], every=2)
    assert found == pytest.approx({"fisher": 4.5, "score": 12 / 41})


def test_a_later_phase_takes_the_mean_with_the_score_before():
    found = walked([0.0, 2.0, 4.0], [-2.0, -4.0], every=2, old=1, score=1.0)
    assert found["score"] == pytest.approx((1 + 12 / 41) / 2)
