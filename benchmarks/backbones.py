"""timm's backbones as trees and as modules: how long is a step, and is it the same? `python -m benchmarks.backbones`.

Contenders for ResNet-18 and ViT-tiny, a training step by cross-entropy and SGD on one batch, in turn:

    module          timm's module, autograd and torch.optim.SGD, eagerly, in float32
    module_tuned    the same with channels_last, and with bfloat16 autocast if `auto` is bfloat16
    float32, auto   this package's compiled functional step at that precision, from uint8 pixels

--agreement measures no time, but the largest difference of features and of gradients in float64 between the module and
this package's forward pass, eager and compiled by the backend aot_eager, relative to the largest number, for six
families.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from benchmarks import measure, step
from cil_func import config as configuration
from cil_func import model, tree
from cil_func.data.batches import Batch
from cil_func.networks.outputs import classes_of
from cil_func.runs import setup
from cil_func.training import runners, step_state

CLASSES = 10
TIMED = ("resnet18", "vit_tiny_patch16_224")
FAMILIES = {  # model: side of the images in pixels
    "resnet18": 64, "vgg11": 32, "vit_tiny_patch16_224": 64, "convnext_atto": 64, "efficientnet_b0": 64,
    "swin_tiny_patch4_window7_224": 64,
}  # fmt: skip
QUICK = {"test_resnet": 32, "test_vit": 32}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.agreement:
        return agreement(options)
    conditions = measure.conditions(measure.device(), commit=options.commit)
    figures, rows = {}, [["", "median ms", "best ms", "images/s"]]
    for name in QUICK if options.quick else TIMED:
        seconds, precision = timed(name, options)
        middle = {each: statistics.median(values) for each, values in seconds.items()}
        for each, values in seconds.items():
            rows.append([f"{name} {each}", 1e3 * middle[each], 1e3 * min(values), options.batch_size / middle[each]])
            figures[f"seconds_{name}_{each}"] = middle[each]
        for ours, other in (("float32", "module"), ("auto", "module"), ("auto", "module_tuned")):
            figures[f"speedup_{name}_{ours}_over_{other}"] = measure.ratio(seconds[other], seconds[ours])
    measure.table(rows)
    for name, value in figures.items():
        if name.startswith("speedup"):
            print(f"{name}: {value:.2f}")
    conditions |= {"precision_auto": precision, "batch_size": options.batch_size, "repeats": options.repeats}
    conditions |= {"image_size": options.image_size, "eager": options.eager}
    print(measure.write("backbones", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None):
    """Returns the flags as a namespace."""
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="calls of each contender")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--agreement", action="store_true", help="differences instead of seconds")
    parser.add_argument("--models", default=",".join(FAMILIES), help="of --agreement, separated by commas")
    parser.add_argument("--quick", action="store_true", help="timm's smallest models, for tests")
    parser.add_argument("--eager", action="store_true", help="compile nothing, for tests")
    options = parser.parse_args(arguments)
    changes = ("batch_size", "image_size", "models", "quick", "eager")
    measure.refuse_replacing(parser, options, changed_by=changes)
    return options


def timed(name: str, options) -> tuple[dict[str, list[float]], str]:
    """Returns ({contender: seconds of each step}, the precision of `auto`). name: timm's."""
    with tempfile.TemporaryDirectory(prefix="benchmark-backbones-") as folder:
        images = Path(folder) / "images"
        measure.write_images(images, classes=CLASSES, train=2, test=1, size=options.image_size)
        ready = {precision: build(images, name, precision, options) for precision in ("float32", "auto")}
    made, precision = ready["auto"].experiment, ready["auto"].config.run.precision
    contenders = {
        "module": conventional(name, made.device, options),
        "module_tuned": conventional(name, made.device, options, tuned=True, autocast=precision == "bfloat16"),
        **{each: ours(one, options) for each, one in ready.items()},
    }
    return step.interleaved(contenders, repeats=options.repeats, device=made.device), precision


def build(images: Path, name: str, precision: str, options) -> setup.Setup:
    """Returns the setup of this package's side, as a run would build it: one phase of fine-tuning."""
    return setup.build(configuration.load("cifar", [
        "data.name=image_folder", f'data.path="{images}"', f"data.image_size={options.image_size}",
        f"data.initial_increment={CLASSES}", f"data.increment={CLASSES}", f"model.backbone=timm:{name}",
        f"optim.batch_size={options.batch_size}", "optim.norm_batch=0", "method.name=finetune",
        f"run.precision={precision}", f"run.compile={str(not options.eager).lower()}",
    ]))  # fmt: skip


def ours(ready: setup.Setup, options) -> Callable[[], None]:
    """Returns a function that takes one step of this package, always on the same batch."""
    made, recipe = ready.experiment, ready.experiment.recipe(0, "")
    images, labels = step.batch(options.batch_size, options.image_size, CLASSES, made.device)
    train_state = step_state.start(recipe.stage, recipe.optimiser, *step.drawn(made, 0))
    classes = classes_of([CLASSES], 0, device=made.device)
    steps = (runners.CapturedSteps if made.captured else runners.EagerSteps)(recipe.step, train_state, classes)
    rate = torch.tensor(0.01, dtype=made.dtype, device=made.device)
    return lambda: steps(None, Batch(images, labels), rate)


def module_of(name: str, side: int, **options) -> torch.nn.Module:
    """Returns timm's module for images of a size."""
    sized = {"img_size": side} if "vit" in name or "swin" in name else {}
    return timm.create_model(name, pretrained=False, **sized, **options)


def conventional(
    name: str, device: torch.device, options, *, tuned: bool = False, autocast: bool = False
) -> Callable[[], None]:
    """Returns a function that takes one step of timm's module, on pixels that are floats already."""
    torch.manual_seed(0)
    layout = torch.channels_last if tuned else torch.contiguous_format
    module = module_of(name, options.image_size, num_classes=CLASSES).to(device, memory_format=layout).train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images, labels = step.batch(options.batch_size, options.image_size, CLASSES, device)
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.5).contiguous(memory_format=layout)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(module(pixels), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return run


def agreement(options) -> int:
    """Prints and writes the differences from timm's modules, and returns 0. Those of other models stay in the file."""
    path = options.json or measure.RESULTS / "backbones_agreement-cpu.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    families = QUICK if options.quick else {name: FAMILIES[name] for name in options.models.split(",")}
    rows = [["", "features", "gradients", "compiled features", "compiled gradients"]]
    for name, side in families.items():
        found = [difference(name, side, compiled) for compiled in ((False,) if options.eager else (False, True))]
        for kind, pair in zip(("eager", "compiled"), found, strict=False):
            figures |= {f"features_{kind}_{name}": pair[0], f"gradients_{kind}_{name}": pair[1]}
        rows.append([name, *(f"{value:.1e}" for pair in found for value in pair)])
        print(*rows[-1], flush=True)
    conditions = measure.conditions("cpu", commit=options.commit) | {"images": 2, "dtype": "float64"}
    print(measure.write("backbones_agreement", figures, conditions, options.json))
    return 0


def difference(name: str, side: int, compiled: bool) -> tuple[float, float]:
    """Returns how far features and gradients are from the module's, in train mode, relative to the largest number."""
    params, state = tree.cast(model.init(0, f"timm:{name}", CLASSES, image_size=(side, side)), dtype=torch.float64)
    path = f"timm:{name}"
    module = module_of(name, side, num_classes=0, **({"drop_path_rate": 0.0} if "swin" in name else {})).double()
    module = timm_off(module)
    flat = tree.to_paths(params["backbone"][path]) | tree.to_paths(state["backbone"][path])
    module.load_state_dict({key: flat[key] for key in module.state_dict()})
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def forward(params, state):
        def loss(backbone, state):
            _, features, _ = model.apply({**params, "backbone": backbone}, state, images, train=True)
            return features.square().mean(), features

        return torch.func.grad(loss, has_aux=True)(params["backbone"], state)

    compiler = torch.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    function = compiler(forward) if compiled else forward
    grads, features = function(params, state)
    expected = module.train()(images)
    expected.square().mean().backward()
    theirs = dict(module.named_parameters())
    pairs = [(leaf, theirs[key].grad) for key, leaf in tree.to_paths(grads[path]).items()]
    scale = max(other.abs().max().item() for _, other in pairs)
    worst = max((mine - other).abs().max().item() for mine, other in pairs)
    return (features - expected).abs().max().item() / expected.abs().max().item(), worst / scale


def timm_off(module: torch.nn.Module) -> torch.nn.Module:
    """Returns the module without dropout, as this package has it by default. Changes it in place."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif hasattr(part, "drop_prob"):
            part.drop_prob = 0.0
    return module


if __name__ == "__main__":
    sys.exit(main())
