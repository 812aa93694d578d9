"""IL2M: what it remembers by a conventional loop, and its rule of prediction by hand."""

import json
from pathlib import Path

import oracle
import pytest
import tiny
import torch
import torch.nn.functional as F

import cil_func
from cil_func import config
from cil_func.deploy.portable import Portable
from cil_func.methods import il2m
from cil_func.networks.outputs import classes_of
from cil_func.runs import run


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    ours = oracle.learn(monkeypatch, "il2m")
    net, born, now, sure = oracle.backbone(*ours.started[0]), [], None, []
    for phase, old, seen in oracle.phases():
        rows = ours.started[phase].params["classifier"]
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)
        net.train()
        oracle.train(
            net.parameters(), ours.batches[phase, ""], lambda images, labels: F.cross_entropy(net(images)[0], labels)
        )
        net.eval()
        with torch.no_grad():
            new = torch.softmax(net(ours.images[phase])[0], dim=1)
            kept = {label: ours.exemplars[phase][label] for label in range(old)}
            now = [torch.softmax(net(ours.pixels[rows])[0], 1)[:, label].mean() for label, rows in kept.items()]
        born += [new[ours.labels[phase] == label, label].mean() for label in range(old, seen)]
        sure += [new.max(dim=1).values.mean()] * (seen - old)
    params, state = ours.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())
    found, old = ours.extra["classifier"], len(now)
    oracle.assert_near(
        {"born": found["born"], "now": found["now"][:old], "sure": found["sure"], "last": ours.extra["sure"]},
        {"born": torch.stack(born), "now": torch.stack(now), "sure": torch.stack(sure), "last": sure[-1]},
    )


CLASSES = classes_of([2, 2, 1], 1)  # the last class is still to come
EXTRA = {
    "classifier": {
        "born": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.0]), "now": torch.tensor([0.3, 0.0, 0.0, 0.0, 0.0]),
        "sure": torch.tensor([0.6, 0.6, 0.9, 0.9, 0.0]),
    },
    "sure": torch.tensor(0.9),
}  # fmt: skip


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.2, 0.1, 0.6, 0.1], [0.2 * 0.9 / 0.3 * 0.9 / 0.6, 0.1, 0.6, 0.1]),  # class 1 has no exemplar
        ([0.5, 0.1, 0.3, 0.1], [0.5, 0.1, 0.3, 0.1]),  # an old class is predicted
    ],
)
def test_old_scores_are_multiplied_where_a_new_class_is_predicted(probabilities, expected):
    logits = torch.tensor([probabilities]).double().log() + 3
    found = il2m.rectify(logits, EXTRA, CLASSES)
    assert found.exp()[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_classes_that_another_method_has_learned_are_not_rectified():
    """In a run that extends another: nothing was measured when they were new."""
    classifier = {name: leaf * (torch.arange(5) > 0) for name, leaf in EXTRA["classifier"].items()}
    extra = {"classifier": {**classifier, "now": EXTRA["classifier"]["now"]}, "sure": EXTRA["sure"]}
    logits = torch.tensor([[0.2, 0.1, 0.6, 0.1]]).log()
    assert il2m.rectify(logits, extra, CLASSES).tolist() == logits.log_softmax(1).tolist()


def test_in_phase_0_nothing_is_rectified():
    extra = il2m.start({"classifier": {"weight": torch.zeros(5, 3)}})
    logits = torch.tensor([[1.0, 2.0]])
    assert il2m.rectify(logits, extra, classes_of([2, 3], 0)).tolist() == logits.log_softmax(1).tolist()


def test_a_finished_run_predicts_everywhere_as_its_results_count(tmp_path, monkeypatch):
    """By images of test, from the files alone, and as the module that is exported; without the rule it is otherwise."""
    tiny.shallow(monkeypatch)
    given = tiny.settings(
        "method.name=il2m", "run.compile=false", "run.device=cpu", "run.precision=float64", "data.increment=5",
        "optim.epochs=3", "optim.batch_size=32", "memory.size=20", "data.class_order=sorted",
    )  # fmt: skip
    assert run.run(config.load("digits", given), tmp_path) == 0
    predictor = cil_func.load(tmp_path, device="cpu")
    paths = sorted(Path(tiny.images() / "test").glob("*/*"))
    labels = torch.tensor([predictor.class_names.index(path.parent.name) for path in paths])
    found = predictor(paths)
    results = json.loads((tmp_path / "results.json").read_text())
    assert 100 * (found.argmax(1) == labels).double().mean().item() == pytest.approx(results["last_accuracy"])
    pixels, _ = predictor.reader.read(paths)
    torch.testing.assert_close(Portable(predictor)(pixels).double(), found, rtol=1e-5, atol=1e-6)
    logits, _ = predictor.scorer.outputs(pixels)
    plain = logits.softmax(dim=1)
    of_new = plain.argmax(1) >= 5
    assert of_new.any() and (found[of_new, :5].sum(1) > plain[of_new, :5].sum(1)).all()
    torch.testing.assert_close(found[~of_new], plain[~of_new])


def test_the_numbers_of_old_classes_stay_but_for_those_of_the_present_model():
    class Passes:
        def mean(self, measure, *, by, of="new"):
            value = 0.5 if of == "new" else 0.25
            return {"scores": torch.full((5,), value), "images": torch.ones(5), "sure": torch.tensor(value)}

    found = il2m.after(EXTRA, {}, Passes(), CLASSES)
    assert found["classifier"]["born"].tolist() == pytest.approx([0.9, 0.8, 0.5, 0.5, 0.0])
    assert found["classifier"]["sure"].tolist() == pytest.approx([0.6, 0.6, 0.5, 0.5, 0.0])
    assert set(found["classifier"]["now"].tolist()) == {0.25} and found["sure"] == 0.5
