"""Methods on a frozen backbone: their rows from the formulas in numpy, whole runs, and what is left of a run."""

import json
from functools import cache

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import cil_func
import train
from cil_func import experiment, methods, tree
from cil_func.config import load
from cil_func.methods import fetril, ranpac
from cil_func.networks.outputs import classes_of
from cil_func.runs import setup

NAMES = ("ncm", "simplecil", "ranpac", "fetril")
WIDTH = 12  # of the projection: fewer than the images, so that the sums are well conditioned
SETTINGS = (
    "run.precision=float64", "run.compile=false", "run.device=cpu", "optim.epochs=1", "optim.batch_size=12",
    "optim.norm_batch=0", "optim.learning_rate=0.02", "augment.crop_padding=0", "data.mean=[0.5, 0.4, 0.3]",
    "data.std=[0.2, 0.3, 0.4]", "data.class_order=sorted",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("shallow")


def options_of(name: str, first_phase: bool) -> list[str]:
    more = {"ranpac": [f"method.options.width={WIDTH}"], "fetril": ["method.options.tuned_epochs=3"]}.get(name, [])
    return [f"method.name={name}", f"method.options.first_phase={str(first_phase).lower()}", *more]


@cache
def learned(name: str, increment: int, first_phase: bool = False):
    """(experiment, progress, results) of six classes with ten images each, `increment` a phase."""
    words = [*tiny.settings(folder=tiny.images(6, 10)), *SETTINGS, *options_of(name, first_phase)]
    made = setup.build(load("digits", [*words, f"data.increment={increment}", "data.initial_increment=0"])).experiment
    return made, *experiment.run(made, emit=lambda event: None, save=lambda results: None)


@pytest.mark.parametrize("name", ["ncm", "simplecil", "ranpac"])
def test_the_rows_are_the_same_from_one_phase_and_from_six(name):
    """To 1e-6, and more nearly: the sums are in float64."""
    found = [learned(name, increment)[1].learned.params for increment in (6, 2, 1)]
    for other in found[1:]:
        for part in ("classifier", "head", "backbone"):
            flat = tree.to_paths({part: found[0].get(part, {})})
            for path, leaf in tree.to_paths({part: other.get(part, {})}).items():
                if path not in ("classifier.weight", "classifier.bias") or name == "ncm":
                    torch.testing.assert_close(leaf, flat[path], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_backbone_is_trained_in_phase_0_or_never_and_no_image_is_kept(name):
    made, progress, results = learned(name, 2, True)
    never = learned(name, 2)[1]
    first = experiment.expand(made, made.scenario.phases[0], None, 0, {}).params["backbone"]
    drawn = made.network.init(0, 2)  # same shapes
    assert tree.size(first) == tree.size(drawn.params["backbone"])
    assert [made.recipe(phase, "").epochs for phase in (0, 1, 2)] == [1, 0, 0]
    assert not torch.equal(tree.to_vector(progress.learned.params["backbone"]),
                           tree.to_vector(never.learned.params["backbone"]))  # fmt: skip
    assert progress.exemplars == {} and [row["memory_size"] for row in results["phases"]] == [0, 0, 0]


def features_of(made, model) -> tuple[np.ndarray, np.ndarray]:
    rows = torch.arange(len(made.scenario.train_labels))
    features = made.forward.features(model, made.train_images, rows, when="test")
    return features.numpy(), made.scenario.train_labels.numpy()


@pytest.mark.parametrize("first_phase", [False, True])
def test_ncm_predicts_the_nearest_mean(first_phase):
    made, progress, results = learned("ncm", 2, first_phase)
    features, labels = features_of(made, progress.learned)
    means = np.stack([features[labels == label].mean(0) for label in range(6)])
    rows = torch.arange(len(made.scenario.test_labels))
    tests = made.forward.features(progress.learned, made.test_images, rows, when="test").numpy()
    distances = ((tests[:, None] - means[None]) ** 2).sum(2)
    right = distances.argmin(1) == made.scenario.test_labels.numpy()
    assert results["phases"][-1]["top1"] == pytest.approx(100 * right.mean())
    logits = made.network.outputs(progress.learned.params, torch.from_numpy(tests), None).logits.numpy()
    np.testing.assert_allclose(logits, (tests**2).sum(1, keepdims=True) / 2 - distances / 2, rtol=1e-9)


def test_simplecil_logits_are_cosines_to_the_means():
    made, progress, _ = learned("simplecil", 2)
    features, labels = features_of(made, progress.learned)
    means = np.stack([features[labels == label].mean(0) for label in range(6)])
    cosines = features @ means.T / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    logits = made.network.outputs(progress.learned.params, torch.from_numpy(features), None).logits
    np.testing.assert_allclose(logits.numpy(), cosines, rtol=1e-9)


def test_ranpac_is_ridge_regression_with_the_best_of_its_ridges():
    """By numpy's least squares on stacked rows, without sums over images."""
    made, progress, _ = learned("ranpac", 1)
    features, labels = features_of(made, progress.learned)
    h, y = np.maximum(features @ progress.learned.params["head"]["projection"].numpy(), 0), np.eye(6)[labels]

    def ridge(rows, r):
        above = np.concatenate([h[rows], np.sqrt(r) * np.eye(WIDTH)])
        return np.linalg.lstsq(above, np.concatenate([y[rows], np.zeros((WIDTH, 6))]), rcond=None)[0]

    fit = np.concatenate([np.flatnonzero(labels == label)[:8] for label in range(6)])
    held = np.setdiff1d(np.arange(60), fit)
    errors = {r: ((h[held] @ ridge(fit, r) - y[held]) ** 2).mean() for r in ranpac.RIDGES}
    best = min(errors, key=errors.get)
    expected = ridge(np.arange(60), best).T
    np.testing.assert_allclose(progress.learned.params["classifier"]["fitted"].numpy(), expected, rtol=1e-6, atol=1e-9)


def test_the_ridge_is_the_one_with_the_least_error_on_held_out_rows():
    """One feature says something and eleven say nothing, so the best one is neither the smallest nor the largest."""
    generator = np.random.default_rng(0)
    h = generator.standard_normal((30, 12))
    y = h[:, :1] + generator.standard_normal((30, 2))
    errors = {}
    for ridge in ranpac.RIDGES:
        rows = np.linalg.solve(h[:24].T @ h[:24] + ridge * np.eye(12), h[:24].T @ y[:24])
        errors[ridge] = ((h[24:] @ rows - y[24:]) ** 2).sum()
    best = min(errors, key=errors.get)
    assert ranpac.RIDGES[0] < best < ranpac.RIDGES[-1]
    gram = np.stack([h[:24].T @ h[:24], h[24:].T @ h[24:]])
    products = np.stack([y[:24].T @ h[:24], y[24:].T @ h[24:]], axis=1)
    assert ranpac.choose(torch.from_numpy(gram), torch.from_numpy(products)) == best


def test_fetril_replays_translated_features_and_trains_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([2] * 5 + [3] * 4)
    new = [features[:5].mean(0), features[5:].mean(0)]
    means = torch.stack([2 * new[1], 0.5 * new[0], *new])  # the nearest by cosine, not by distance
    found, own = fetril.replayed(features, labels, means, 2)
    expected = torch.cat([features, features[5:] - new[1] + means[0], features[:5] - new[0] + means[1]])
    torch.testing.assert_close(found, expected)
    assert own.tolist() == [2] * 5 + [3] * 4 + [0] * 4 + [1] * 5
    rows = {"weight": torch.randn(4, 3, generator=generator, dtype=torch.float64), "bias": torch.zeros(4).double()}
    trained = fetril.trained(rows, found, own, epochs=4, rate=0.05, decay=0.01, key=1)
    layer = nn.Linear(3, 4).double()  # 18 features are one batch: their order doesn't matter
    layer.load_state_dict(rows)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(layer(found), own).backward()
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(trained, {k: v.detach() for k, v in layer.named_parameters()}, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("first_phase", [False, True])
def test_fetril_fits_all_classes_after_each_phase(first_phase):
    made, progress, _ = learned("fetril", 3, first_phase)
    features, labels = features_of(made, progress.learned)
    means = progress.extra["classifier"]["means"].numpy()
    np.testing.assert_allclose(means, np.stack([features[labels == label].mean(0) for label in range(6)]), rtol=1e-9)
    method, classes = made.method, classes_of([3, 3], 0)
    params = made.network.init(0, 3).params
    data = torch.from_numpy(features[:30]).float(), torch.from_numpy(labels[:30])
    fitted, _ = method.extra.fit(params, method.extra.start(made.network.pad(params)), *data, classes, 0)
    same = torch.equal(fitted["classifier"]["weight"], params["classifier"]["weight"])
    assert same is first_phase  # in phase 0 the classifier is the one that was trained, if anything was


# --- Runs


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_predicted_extended_and_edited(name, tmp_path, capsys):
    """What the saved model says is what training measured; a class of an extension is known beside the old ones."""
    out, more = tmp_path / "run", tmp_path / "more"
    words = [*SETTINGS[1:], "run.precision=float32", *options_of(name, name != "simplecil"), "data.increment=3"]
    flags = [word for each in words for word in ("--set", each)]
    assert train.main(["--config", "digits", *tiny.flags(), *flags, "--out", str(out)]) == 0
    results, folder = json.loads((out / "results.json").read_text()), tiny.images()
    predictor = cil_func.load(out)
    files = {label: sorted((folder / "test" / name).iterdir()) for label, name in enumerate(predictor.class_names)}
    right = [
        predictor([str(file)]).argmax().item() == label for label, own in files.items() for file in own
    ]  # fmt: skip
    assert 100 * np.mean(right) == pytest.approx(results["phases"][-1]["top1"])
    new = tiny.images(3, 11)
    renamed = tmp_path / "images"
    for part in ("train", "test"):
        for each in (new / part).iterdir():
            (renamed / part).mkdir(parents=True, exist_ok=True)
            (renamed / part / f"new-{each.name}").symlink_to(each)
    flags = ["--extend", str(out), "--set", f"data.path={renamed}", "--out", str(more)]
    assert train.main(flags) == 0
    assert len(cil_func.load(more).class_names) == 13
    before, after = cil_func.load(out), cil_func.load(more)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), before.params["backbone"],
             after.params["backbone"])  # fmt: skip
    from cil_func.deploy import edit

    assert edit.main([str(more), "--drop", predictor.class_names[0], "--out", str(tmp_path / "less")]) == 0
    less = cil_func.load(tmp_path / "less")
    images = [str(file) for own in files.values() for file in own]
    kept = after(images)[:, 1:]
    torch.testing.assert_close(less(images), kept / kept.sum(1, keepdim=True), rtol=1e-5, atol=1e-7)


def test_a_backbone_that_nothing_trains_and_no_file_gives_is_warned_of(capsys):
    words = [*SETTINGS, "method.name=simplecil", "data.increment=5"]
    flags = [word for each in words for word in ("--set", each)]
    assert train.main(["--config", "digits", *tiny.flags(), *flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "warning: simplecil trains nothing, and the backbone's weights are random" in printed
    assert "0 steps over 0 images" in printed


def test_the_declarations():
    for name in NAMES:
        method = methods.make(name, methods.Options())
        assert (method.uses_memory, method.trained) == (False, "never" if name == "simplecil" else "first")
