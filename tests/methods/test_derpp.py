"""DER++: whole runs against a conventional loop that stores logits by itself."""

from dataclasses import replace

import oracle
import pytest
import replay_oracle
import torch

from cil_func import methods
from cil_func.methods import derpp, ewc

ALPHA, BETA = 0.7, 0.4


@pytest.mark.parametrize("beta", [BETA, 0.0])
def test_three_phases_are_those_of_a_conventional_loop(beta, monkeypatch):
    """With beta 0 it is DER. Seven images a class of the first phase are kept, then fewer: batches of 16 and groups."""
    run = oracle.learn(
        monkeypatch, "derpp", f"method.options.alpha={ALPHA}", f"method.options.beta={beta}",
        "method.options.images=12",
    )  # fmt: skip
    known = []  # (images, logits) of each phase's exemplars

    def stored_of(image):
        """The logits that the network itself gave an exemplar at the end of its phase."""
        return next(logits[i] for images, logits in known for i in range(len(images)) if torch.equal(images[i], image))

    def of_group(group, logits, labels, stored, images, old, seen):
        if group == 1:
            return beta * replay_oracle.cross_entropy(logits, labels, old, seen)
        assert len(images) == 12 and len({image.sum().item() for image in images}) == 12
        squares = 0.0
        for image, ours, given in zip(images, logits, stored, strict=True):
            theirs = stored_of(image)
            torch.testing.assert_close(given[: len(theirs)], theirs, rtol=0, atol=oracle.TOLERANCE)
            squares = squares + ((ours[: len(theirs)] - theirs) ** 2).sum()
        return ALPHA * squares / len(images) / seen

    steps = replay_oracle.train_phases(
        run, replay_oracle.cross_entropy, of_group, lambda gradient, more: gradient + sum(more.values())
    )  # fmt: skip
    for phase, net in steps:
        net.eval()
        with torch.no_grad():
            known.append((run.images[phase], net(run.images[phase])[0]))
    assert run.extra.keys() == {"logits"}
    assert {label: len(rows) for label, rows in run.exemplars[-1].items()} == {
        int(label): len(rows) for label, rows in run.extra["logits"].items()
    }
    assert [leaf.shape[1] for leaf in run.extra["logits"].values()] == [3, 3, 3, 5, 5, 7, 7]


def test_stored_logits_stay_beside_what_a_method_of_ones_own_remembers(monkeypatch):
    """DER++ with EWC's penalty and importances: the logits are those of the phase that an exemplar came with."""
    plain, both = derpp.make, ewc.make
    own = lambda options, **more: replace(  # noqa: E731
        plain(options, **more), extra=both(options).extra, penalty=both(options).penalty
    )
    monkeypatch.setitem(methods.TABLE, "derpp", own)
    run = oracle.learn(monkeypatch, "derpp", "method.options.images=12")
    assert run.extra.keys() == {"logits", "importance", "anchor"}
    assert [leaf.shape[1] for leaf in run.extra["logits"].values()] == [3, 3, 3, 5, 5, 7, 7]
