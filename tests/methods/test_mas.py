"""MAS: whole runs against a conventional loop with a penalty for each phase, and its closed forms."""

import oracle
import penalty_oracle
import pytest
import torch

from cil_func import methods
from cil_func.networks import outputs


@pytest.mark.parametrize(("strength", "per", "length", "keep", "clip"), [
    (0.02, "image", "squared", None, 0.0), (1.0, "batch", "norm", 0.5, 0.3),
])  # fmt: skip
def test_three_phases_are_those_of_a_conventional_loop(strength, per, length, keep, clip, monkeypatch):
    """The paper's, and FACIL's with a limit. By batch there is one batch, so the order of rows doesn't matter."""
    run = oracle.learn(
        monkeypatch, "mas", f"method.options.strength={strength}", f"method.options.per={per}",
        f"method.options.length={length}", f"method.options.keep={-1.0 if keep is None else keep}",
        f"method.options.clip={clip}",
        *(["optim.batch_size=30"] if per == "batch" else []),
    )  # fmt: skip

    def output(logits, targets):
        return logits.norm(dim=1).mean() if length == "norm" else (logits**2).sum(1).mean()

    def sensitivity(net, images, labels):
        found = penalty_oracle.mean_of_gradients(net, output, torch.abs, images, labels, per=per)
        assert not clip or sum((leaf > clip).sum() for leaf in found.values()) > 10
        return {name: leaf.clamp(max=clip or torch.inf) for name, leaf in found.items()}

    net, remembered = penalty_oracle.train_phases(run, sensitivity, strength=strength, keep=keep)
    penalty_oracle.check(run, net, remembered)


POINTS = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[0.5, -1.0], [2.0, 1.0], [9.0, 9.0]], dtype=torch.float64)  # of a third class that isn't known


def importance(**options) -> torch.Tensor:
    """MAS's importance of WEIGHT in the map x -> W x, on POINTS."""
    made, params = methods.make("mas", methods.Options(), {"clip": 0.0, **options}), {"w": WEIGHT}
    passes = penalty_oracle.Loops(
        lambda params, points: points @ params["w"].T, params, POINTS, torch.zeros(3, dtype=torch.int64)
    )
    return made.extra.after(made.extra.start(params), params, passes, outputs.classes_of([2, 1], 0))["importance"]["w"]


def test_importance_of_a_linear_map():
    """The gradient of |W x|^2 by W is 2 (W x) x', that of |W x| is (W x) x' / |W x|; classes to come don't count."""
    outer, batch, lengths = torch.zeros(3, 2, 2).double(), torch.zeros(2, 2).double(), []
    for number, (x, y) in enumerate(POINTS.tolist()):
        said = [w[0] * x + w[1] * y for w in WEIGHT[:2].tolist()]
        lengths.append((said[0] ** 2 + said[1] ** 2) ** 0.5)
        for row in range(2):
            outer[number, row] = torch.tensor([said[row] * x, said[row] * y])
    squared, norm = importance(), importance(length="norm")
    torch.testing.assert_close(squared[:2], (2 * outer).abs().mean(0))
    torch.testing.assert_close(norm[:2], (outer / torch.tensor(lengths).double()[:, None, None]).abs().mean(0))
    assert not squared[2].any() and not norm[2].any()
    batch = (2 * outer).mean(0).abs()
    torch.testing.assert_close(importance(per="batch")[:2], batch)
    assert (batch < squared[:2]).any()  # opposite gradients cancel within a batch


def test_clip_is_the_largest_importance():
    free = importance().flatten().tolist()
    assert importance(clip=2.5).flatten().tolist() == [min(value, 2.5) for value in free]
    assert min(free) < 2.5 < max(free)
