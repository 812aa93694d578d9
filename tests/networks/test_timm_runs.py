"""Runs with a timm backbone, from the plan to the saved model."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import timm_like
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

import cil_func
import train
from cil_func import experiment, methods, model, optim, tree
from cil_func.config import load
from cil_func.data.batches import Batch
from cil_func.errors import ConfigError
from cil_func.networks import timm_norms
from cil_func.networks.network import Network
from cil_func.networks.outputs import classes_of
from cil_func.parallel import batch_split
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs import activations, checkpoints, load_data, planning, setup
from cil_func.training import recipe, step, step_state
from cil_func.training.preprocess import DTYPES, Preprocess
from cil_func.training.progress import Progress, SaveHook

SMALL = (
    "run.device=cpu", "run.compile=false", "run.precision=float32", "run.threads=1", "optim.epochs=1", "memory.size=10",
    "optim.batch_size=4", "optim.norm_batch=0",
)  # fmt: skip


def command(*overrides: str, flags: tuple[str, ...] = ()) -> int:
    words = [word for override in (*SMALL, *overrides) for word in ("--set", override)]
    return train.main(["--config", "digits", *words, *flags])


@pytest.fixture
def folder(tmp_path):
    """folder(height, width, *counts): so many training images of each class, and two test images."""

    def make(height: int, width: int, *counts: int) -> tuple[str, ...]:
        generator = np.random.default_rng(0)
        for label, count in enumerate(counts):
            for split, number in (("train", count), ("test", 2)):
                (tmp_path / "images" / split / f"c{label}").mkdir(parents=True)
                for i in range(number):
                    pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
                    pixels[..., label % 3] += 100
                    Image.fromarray(pixels).save(tmp_path / "images" / split / f"c{label}" / f"{i}.png")
        settings = ("name=image_folder", f"path={tmp_path / 'images'}", "class_order=sorted", "increment=2")
        return tuple(f"data.{setting}" for setting in settings)

    return make


def build(*overrides: str) -> setup.Setup:
    return setup.build(load("digits", [*SMALL, *overrides]))


# --- The plan


@pytest.mark.parametrize(("name", "precision"), [("test_vit", "bfloat16"), ("test_resnet", "float32")])
def test_the_plan_of_a_timm_model(name, precision, capsys):
    overrides = (f"model.backbone=timm:{name}", "data.image_size=16", f"run.precision={precision}")
    assert command(*overrides, flags=("--dry-run",)) == 0
    assert "activations about" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_planned_activations_are_those_of_a_real_batch(precision):
    """Counted by running the model on the CPU, with its autocast."""
    ready = build("model.backbone=timm:test_vit", "data.image_size=32", f"run.precision={precision}")
    params, state = model.init(0, "timm:test_vit", ready.experiment.num_classes, image_size=(32, 32))
    compute_dtype = DTYPES[precision][1]
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    for leaf in tree.leaves(params):
        leaf.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.apply(params, state, torch.randn(4, 3, 32, 32).to(compute_dtype), train=True)
    own = {leaf.untyped_storage().data_ptr() for leaf in tree.leaves(params)}
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in own)
    if precision == "bfloat16":  # it also keeps a copy of each weight in bfloat16: two bytes a number
        size -= 2 * sum(leaf.numel() for leaf in tree.leaves(params["backbone"]) if leaf.ndim > 1)
    assert activations.activation_bytes(ready) == pytest.approx(size, rel=0.25)


def test_rates_that_are_passed_over_are_warned_of():
    """ghostnet's own dropout is 0.2, and test_resnet has none."""
    for name, told in (("ghostnet_050", True), ("test_resnet", False)):
        ready = build(f"model.backbone=timm:{name}", "data.image_size=32")
        assert any("model.drop_rate" in line for line in planning.warnings(ready)) is told
    ready = build("model.backbone=timm:ghostnet_050", "data.image_size=32", "model.drop_rate=0.2")
    assert not any("model.drop_rate" in line for line in planning.warnings(ready))


# --- The size of the images


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_coatnet"])
def test_a_size_that_does_not_fit_is_refused_before_the_data_are_read(backbone, capsys):
    overrides = (f"model.backbone={backbone}", "data.image_size=40", "data.name=image_folder", "data.path=nowhere")
    assert command(*overrides, flags=("--dry-run",)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "data.image_size: 40" in error and "data.image_size = 32 fits" in error


def test_the_size_of_the_digits_is_known_without_reading_them(monkeypatch, capsys):
    monkeypatch.setattr(load_data.sources, "load", None)
    assert command("model.backbone=timm:test_vit", flags=("--dry-run",)) == 2
    assert "8x8 pixels" in capsys.readouterr().err


def test_a_size_that_only_the_data_show_is_refused_before_training(folder, tmp_path, capsys):
    overrides = (*folder(20, 16, 3, 3), "data.image_size=0", "model.backbone=timm:test_vit")
    for flags in (("--dry-run",), ("--out", str(tmp_path / "run"))):
        assert command(*overrides, flags=flags) == 3
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "20x16 pixels" in error and "data.image_size = 32 fits" in error


def test_a_vit_learns_images_that_are_not_square_and_is_read_back(folder, tmp_path):
    overrides = (*folder(16, 32, 5, 4), "data.image_size=0", "model.backbone=timm:test_vit")
    assert command(*overrides, flags=("--out", str(tmp_path / "run"))) == 0
    params, state, _, description, _ = checkpoints.load_model(tmp_path / "run")
    settings = description["preprocessing"]
    assert settings["image_size"] == [16, 32]
    mean, std = (torch.tensor(settings[key]).float().view(1, 3, 1, 1) for key in ("mean", "std"))
    files = sorted((tmp_path / "images/test").rglob("*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files]).permute(0, 3, 1, 2)
    logits = model.apply(params, state, (pixels / 255 - mean) / std, train=False)[0]
    names = [description["classes"][row]["name"] for row in logits.argmax(1).tolist()]
    right = np.mean([name == file.parent.name for name, file in zip(names, files, strict=True)])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["last_accuracy"] == pytest.approx(100 * right)


# --- A single image


def test_a_single_last_image_joins_the_batch_before_it(folder, tmp_path, capsys):
    """9 images in batches of 4: 4 and 5. Batch norm on 1x1 pixels can't take one image."""
    data = (*folder(16, 16, 5, 4, 5, 4), "model.backbone=timm:test_resnet", "data.image_size=0", "method.name=finetune")
    assert command(*data, flags=("--dry-run",)) == 0
    assert "4 steps over 18 images" in capsys.readouterr().out  # 2 in each of the two phases
    assert command(*data, flags=("--out", str(tmp_path / "run"))) == 0
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [event["images"] for event in events if event["event"] == "epoch"] == [9, 9]


def test_a_phase_of_one_image_is_refused_at_the_start(folder, tmp_path, capsys):
    data = (*folder(16, 16, 3, 1), "data.increment=1", "model.backbone=timm:test_resnet", "method.name=finetune")
    for flags in (("--dry-run",), ("--out", str(tmp_path / "run"))):
        assert command(*data, flags=flags) == 3
        (error,) = (line for line in capsys.readouterr().err.splitlines() if "warning" not in line)
        assert "phase 1 trains on a single image" in error
    assert command(*data, "method.name=replay", flags=("--dry-run",)) == 0  # exemplars are there as well
    assert command(*data, "model.backbone=timm:test_vit", flags=("--dry-run",)) == 0  # without batch norm


# --- Draws


class Stop(BaseException):
    pass


class StopAt(SaveHook):
    """Stops before a step, keeping the progress."""

    def __init__(self, at: tuple[int, int] | None):
        self.at, self.found = at, None

    def at_border(self, make, boundary):
        made = make()
        if not boundary and tuple(made.training.position) == self.at:
            self.found = made
            raise Stop


def learn(ready: setup.Setup, stop: tuple[int, int] | None = None, begun: Progress | None = None) -> Progress:
    """Trains phase 0; the progress after it, or where it was stopped."""
    made, hook = ready.experiment, StopAt(stop)
    phase = made.scenario.phases[0]
    try:
        return experiment.train(
            made, phase, begun or Progress(), partial(experiment.expand, made, phase, None, 7, {}),
            partial(experiment.teacher, made, phase, None), 7,
            emit=lambda event: None, hook=hook, evaluate=lambda *_, **__: {},
        )  # fmt: skip
    except Stop:
        return hook.found


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("test_efficientnet", (0.3, 0.0)),  # dropout by its function
        ("resnet10t", (0.0, 0.5)),  # stochastic depth
        ("test_vit", (0.3, 0.5)),  # dropout layers and stochastic depth
        ("draws", (0.0, 0.0)),  # every kind, by the model's own rates
        ("draws", (0.3, 0.3)),
    ],
)
def test_a_run_is_the_same_twice_and_when_it_goes_on(name, rates, folder, monkeypatch):
    if name == "draws":
        timm_like.install(monkeypatch)
    expected = any(rates)
    rates = (f"model.drop_rate={rates[0]}", f"model.drop_path_rate={rates[1]}")
    size = 16 if name == "test_vit" else 32
    ready = build(*folder(size, size, 4, 4), f"model.backbone=timm:{name}", "optim.epochs=2", *rates)
    assert ready.experiment.draws is expected
    whole = learn(ready).training.train_state
    torch.rand(3)  # torch's global generator is somewhere else
    assert same(learn(ready).training.train_state, whole)
    stopped = learn(ready, stop=(0, 1))
    torch.rand(5)
    assert same(learn(ready, begun=stopped).training.train_state, whole)
    if expected:
        quiet = build(*folder_of(ready), f"model.backbone=timm:{name}", "optim.epochs=2")
        assert not same(learn(quiet).training.train_state, whole)
    timm_like.forget()


def folder_of(ready: setup.Setup) -> tuple[str, ...]:
    data = ready.config.data
    return (f"data.name={data.name}", f"data.path={data.path}", "data.class_order=sorted", "data.increment=2")


# --- Several processes


def parts_of_a_step(name: str, *, padded: bool, rows: slice = slice(None), fill: int = 0) -> torch.Tensor:
    """The vector of sums that a process with these rows of a batch adds to the others'."""
    network = Network(name, num_classes=3, num_phases=1, image_size=(32, 32))
    params, state = tree.cast(tuple(network.init(1, 3)), dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (7, 32, 32, 3), generator=generator, dtype=torch.uint8)
    batch = Batch(pixels[rows], torch.randint(0, 3, (7,), generator=generator)[rows])
    stage, half = methods.make("finetune", methods.Options()).main, torch.full((3,), 0.5, dtype=torch.float64)
    parts = step.make(
        stage, network, optim.sgd(), Preprocess(half, half), dtype=torch.float64, norm_batch=0, padded=padded
    )
    start = step_state.start(stage, optim.sgd(), params, state)
    return parts.gradient(start, *step_state.pad(None, batch, fill), classes_of([3], 0))[0]


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext"])
def test_processes_share_a_batch_of_a_model_without_batch_norm(name):
    """7 images for 3 processes: 3, 3 and 1, each filled up to 3 rows. Their sums are those of one process."""
    sizes = {"batch_size": 7, "norm_batch": 1}
    assert batch_split.rows_per_process(3, **sizes) == 3
    whole = parts_of_a_step(name, padded=False)
    own = [batch_split.slice_of_rank(rank, 3, **sizes) for rank in range(3)]
    assert own == [slice(0, 3), slice(3, 6), slice(6, 7)]
    fills = [0, 0, 2]
    vectors = [parts_of_a_step(name, padded=True, rows=rows, fill=fill) for rows, fill in zip(own, fills, strict=True)]
    torch.testing.assert_close(sum(vectors), whole, rtol=1e-9, atol=1e-12)


def shared(backbone: str, *, draws: bool = False, norm_batch: int = 0, count: int = 2) -> recipe.Recipe:
    """The recipe of the last of some processes."""
    sizes = ("optim.batch_size=7", f"optim.norm_batch={norm_batch}")
    config = load("digits", [*SMALL, f"model.backbone={backbone}", *sizes])
    half, last = torch.full((3,), 0.5), Processes(Launch(count - 1, count, count - 1, count))
    network = Network(backbone, num_classes=10, num_phases=2)
    maker = recipe.RecipeMaker(network, Preprocess(half, half), torch.float32, last, draws=draws)
    return maker.make(methods.make("wa", methods.Options()).main, config.optim, optim.sgd(momentum=0.9))


def test_which_timm_models_two_processes_share(monkeypatch):
    own = shared("timm:test_vit")
    assert (own.own, own.padded_to, own.joins) == (slice(4, 7), 4, False)
    own = shared("timm:test_resnet", norm_batch=2)  # groups of 2, 2, 2 and 1
    assert (own.own, own.padded_to, own.joins) == (slice(4, 7), 4, False)
    with pytest.raises(ConfigError, match="one norm group"):
        shared("timm:test_resnet")
    with pytest.raises(ConfigError, match=r"optim\.norm_batch: 2 with .* share no statistics; 0 fits"):
        shared("timm:test_vit", norm_batch=2)
    monkeypatch.setattr(timm_norms, "can_group", lambda module: False)
    with pytest.raises(ConfigError, match="this timm model takes its batch norm over the whole batch"):
        shared("timm:test_resnet", norm_batch=2)
    for norm_batch in (2, 7):  # a batch of all would be one of 8 where a last image joins it
        with pytest.raises(ConfigError, match=rf"norm_batch: {norm_batch} .* batch norm over the whole batch; 0 fits"):
            shared("timm:test_resnet", norm_batch=norm_batch, count=1)
    shared("timm:test_resnet", count=1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="draws random numbers for each image"):
        shared("timm:test_vit", draws=True)


# --- Pretrained weights


def saved_like(tmp_path, name: str, **options):
    torch.manual_seed(3)
    module = timm.create_model(name, pretrained=False, **options)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    return module, (f"model.backbone=timm:{name}", f"model.weights={tmp_path / 'weights.safetensors'}")


def test_a_run_on_pretrained_weights_goes_on_and_is_extended_without_the_file(tmp_path, folder, capsys):
    """Frozen, its weights are the module's to the end; images are prepared as timm says, at the size that is set."""
    module, words = saved_like(tmp_path, "test_resnet")
    words = (*folder(16, 16, 4, 4, 4, 4), *words, "data.image_size=16", 'model.freeze=["backbone"]', "method.name=ncm")
    out = ("--out", str(tmp_path / "run"))
    assert command(*words, flags=("--dry-run",)) == 0
    plan = capsys.readouterr().out
    theirs = timm.get_pretrained_cfg("test_resnet")
    numbers = [[round(value, 3) for value in values] for values in (theirs.mean, theirs.std)]
    assert f"images of 16x16 pixels, mean {numbers[0]}, std {numbers[1]}" in plan
    count = sum(leaf.numel() for leaf in module.parameters()) - sum(leaf.numel() for leaf in module.fc.parameters())
    assert f"frozen: {count:,} of the backbone's {count:,} parameters" in plan
    assert "warning: data.image_size = 16, and model.weights were trained on 160 pixels a side" in plan
    assert command(*words, flags=out) == 0
    assert command(*words, flags=out) == 0  # finished: what was not set has become the model's own, and is the same run
    predictor = cil_func.load(tmp_path / "run")
    params = tree.to_paths(predictor.params["backbone"]["timm:test_resnet"])
    assert all(torch.equal(leaf, module.state_dict()[path]) for path, leaf in params.items())
    (tmp_path / "weights.safetensors").unlink()
    (tmp_path / "images").rename(tmp_path / "old")
    new = folder(16, 16, 3, 3)[1]
    for part in ("train", "test"):
        for number in (0, 1):
            (tmp_path / "images" / part / f"c{number}").rename(tmp_path / "images" / part / f"new{number}")
    more = ["--set", f"data.path={new.partition('=')[2]}", "--out", str(tmp_path / "more")]
    assert train.main(["--extend", str(tmp_path / "run"), *more]) == 3  # the tests of the old classes are gone
    (tmp_path / "images").rename(tmp_path / "new")
    (tmp_path / "old").rename(tmp_path / "images")
    more[1] = f"data.path={tmp_path / 'new'}"
    assert train.main(["--extend", str(tmp_path / "run"), *more]) == 0
    extended = cil_func.load(tmp_path / "more")
    assert len(extended.class_names) == 6
    for path, leaf in tree.to_paths(extended.params["backbone"]["timm:test_resnet"]).items():
        assert torch.equal(leaf, params[path])


def test_what_is_wrong_with_weights_and_freeze_is_one_line_before_training(tmp_path, capsys):
    _, words = saved_like(tmp_path, "test_resnet")
    for more, status, says in (
        (("model.weights=nowhere.pth",), 3, "model.weights: nowhere.pth: can't be read (No such file or directory)"),
        (("model.backbone=timm:test_vit", "data.image_size=32"), 3, "does not fit timm:test_vit: "),
        (('model.freeze=["backbone.conv9"]',), 2, 'model.freeze: "backbone.conv9" is no part of this model; '),
        (('optim.rate_factors=[["blocks", 0.1]]',), 2, 'optim.rate_factors: "blocks" is no part of this model'),
    ):  # fmt: skip
        assert command(*words, "data.image_size=16", *more, flags=("--dry-run",)) == status
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line


def test_a_run_on_the_backbone_of_another_run_prepares_images_as_that_one(tmp_path, folder, monkeypatch):
    tiny.shallow(monkeypatch)
    words = (*folder(8, 8, 3, 3), "method.name=finetune", "model.backbone=resnet20")
    own = ("data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]")
    assert command(*words, *own, flags=("--out", f"{tmp_path}/a")) == 0
    words = (*words[:-2], "method.name=simplecil", "model.backbone=resnet20")
    assert command(*words, f"model.weights={tmp_path}/a/model.safetensors", flags=("--out", f"{tmp_path}/b")) == 0
    first, second = (cil_func.load(tmp_path / name) for name in "ab")
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), second.params["backbone"],
             first.params["backbone"])  # fmt: skip
    assert second.saved.description["preprocessing"]["mean"] == pytest.approx([0.1, 0.2, 0.3])
