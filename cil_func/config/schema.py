"""The schema of the configuration: one class a table, a meaning or a unit beside each key.

The defaults are those of `cifar.toml`, with one norm group of 128 images and without RandAugment.
What two keys must not be together is in `config.py`.
"""

import re
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from cil_func.config.messages import LARGEST, Allowed


def _increasing(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("not increasing")
    return values


def _none_or_three(values: tuple) -> tuple:
    if len(values) not in (0, 3):
        raise ValueError("neither 0 nor 3 values")
    return values


def _each_once(order: str | tuple) -> str | tuple:
    if not isinstance(order, str) and (not order or len(set(order)) < len(order)):
        raise ValueError("empty, or a class appears twice")
    return order


# Group 1: the section's name. p0..p1; n, mmax and timm's set of operations ("t") are never 0.
_RAND_SECTION = re.compile(
    r"(m(?=\d{1,2}$)|n(?=[1-9]\d?$)|mmax(?=[1-9]\d?$)|inc(?=[01]$)|mstd|p(?=0\.|[01]$))\d+(?:\.\d+)?"
    r"|(t)(?:weights|3aw|3a)",
    re.ASCII,
)


def _rand_augment(policy: str) -> str:
    """Refuses what timm would refuse, or skip without a word ("mstdinf"), after minutes of loading data."""
    variant, *sections = policy.split("-")
    found = [_RAND_SECTION.fullmatch(section) for section in sections]
    names = {match[1] or match[2] for match in found if match}
    if policy and (variant != "rand" or len(names) < len(sections)):  # fewer: one is wrong, or came twice
        raise ValueError("not RandAugment")
    return policy


def _no_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("no file system takes a NUL")
    return path


# A tuple instead of TOML's list: a frozen configuration can then be hashed, and nobody edits it in place.
_from_list = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)

Seed = Annotated[int, Interval(ge=0, le=2**31 - 1)]
Count = Annotated[int, Interval(ge=0, le=LARGEST)]
Positive = Annotated[int, Interval(ge=1, le=LARGEST)]
Images = Annotated[int, Interval(ge=2, le=2**31 - 1)]  # batch norm needs two; bytes of a batch fit 64 bits
Zero = Annotated[int, Interval(ge=0, le=0), Allowed("0")]  # Literal[0] takes `false` too
Fraction = Annotated[float, Interval(ge=0, lt=1)]
Strength = Annotated[float, Interval(ge=0, le=1)]
Epochs = Annotated[
    tuple[Positive, ...],
    _from_list, AfterValidator(_increasing), Allowed("a list of increasing integers >= 1"),
]  # fmt: skip
Means = Annotated[
    tuple[Annotated[float, Interval(ge=0, le=1)], ...],
    _from_list, AfterValidator(_none_or_three), Allowed("[], or three numbers in 0..1"),
]  # fmt: skip
Deviations = Annotated[
    tuple[Annotated[float, Interval(gt=0, le=1)], ...],
    _from_list, AfterValidator(_none_or_three), Allowed("[], or three numbers > 0 and <= 1"),
]  # fmt: skip
Colour = Annotated[
    tuple[Annotated[int, Interval(ge=0, le=255)], ...],
    _from_list, AfterValidator(_none_or_three), Allowed("[], or three integers in 0..255"),
]  # fmt: skip
ClassOrder = Annotated[
    Literal["canonical", "shuffled", "sorted"] | tuple[Count, ...] | tuple[str, ...],
    _from_list, AfterValidator(_each_once),
    Allowed('one of "canonical", "shuffled", "sorted", or a list of class indices or of names, each once'),
]  # fmt: skip
RandAugment = Annotated[
    str, AfterValidator(_rand_augment),
    Allowed('"", or RandAugment in timm\'s words: "rand-m9-mstd0.5-inc1" (m, n, p, mstd, mmax, inc, t)'),
]  # fmt: skip
Backbone = Annotated[
    str, Field(pattern=r"^(resnet(20|32|44|56|110)|timm:[A-Za-z0-9_]+)$"),
    Allowed('"resnet20", 32, 44, 56 or 110 (CIFAR\'s), or "timm:NAME", a NAME without dots'),
]  # fmt: skip
Folder = Annotated[str, AfterValidator(_no_nul), Allowed("a path as a string in quotes, without NUL")]


class Table(BaseModel):
    """A table of the TOML: no unknown key, no coerced type, no NaN or infinity, no change afterwards."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Run(Table):
    """[run]: where and how the arithmetic is done."""

    seed: Seed = 0  # of weights, batches, augmentation, random selection
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: by a fixed table of hardware
    # float64: for equality tests; float32: IEEE's, also on a GPU, whose default is TF32
    precision: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    compile: bool = True  # torch.compile of the whole step: a minute at first, faster afterwards
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0  # CPU threads; 0: torch's own choice
    timeout_seconds: Annotated[float, Interval(gt=0, le=86_400)] = 120.0  # that a process may stand still


class Data(Table):
    """[data]: the images and how their classes come in phases."""

    name: Literal["digits", "cifar100", "image_folder", "imagenet100", "imagenet1000"] = "cifar100"
    path: Folder = ""  # folder of the images; image_folder and imagenet* need one
    # an image file that can't be read: stop and name it, or skip it and list it in the results; digits and
    # cifar100, which have no such files, ignore this
    on_error: Literal["stop", "skip"] = "stop"
    # EXIF's orientation of an image file; auto: apply for image_folder, ignore for imagenet*, as the field's results
    exif_orientation: Literal["auto", "apply", "ignore"] = "auto"
    # red, green, blue behind transparent pixels of an image file: white, as the paper or page that drawings are made
    # for; []: the alpha channel is dropped
    background: Colour = (255, 255, 255)
    image_size: Zero | Annotated[int, Interval(ge=8, le=1024)] = 0  # pixels a side; 0: the images' own
    initial_increment: Count = 0  # classes of the first phase; 0: the same as increment
    # classes of each later phase; auto: a fifth of all classes, and a first phase of two at least
    increment: Literal["auto"] | Positive = 10
    class_order: ClassOrder = "canonical"  # canonical: RandomState(1993).permutation(K)
    order_seed: Seed = 0  # of class_order = "shuffled"
    mean: Means = ()  # per channel, of pixels in 0..1; []: computed from the first phase's training images
    std: Deviations = ()  # likewise


class Augment(Table):
    """[augment]: what happens to a training image each time it is seen."""

    auto_augment: RandAugment = ""  # a timm string; "": none
    # who does auto_augment: in batches where the images are, or timm with Pillow, one by one (other draws)
    backend: Literal["device", "pil"] = "device"
    crop_padding: Annotated[int, Interval(ge=0, le=64)] = 4  # pixels of zeros a side before a random crop
    flip: bool = True  # left to right, every other time
    brightness: Strength = 0.0  # b: times a factor in [1 - b, 1 + b]
    contrast: Strength = 0.0  # likewise, the distance from the image's mean grey
    saturation: Strength = 0.0  # likewise, the distance from the image in grey
    erasing: Strength = 0.0  # probability that a rectangle is filled with the mean colour


class Model(Table):
    """[model]: the network in front of the classifier."""

    backbone: Backbone = "resnet32"  # CIFAR's ResNets, or a timm model by name
    # of a timm backbone, whatever its own rates are; drawn from the run's seed; the resnets have no such layers
    drop_rate: Fraction = 0.0  # of features that dropout leaves out
    drop_path_rate: Fraction = 0.0  # of blocks that stochastic depth leaves out, for an image


class Memory(Table):
    """[memory]: the images of old classes that are kept."""

    size: Count = 2000  # exemplars of all classes together
    fixed_per_class: Count = 0  # exemplars of each class, whatever size says; 0: size // classes seen
    selection: Literal["herding", "random", "closest"] = "herding"  # closest: to the class mean


class Method(Table):
    """[method]: the loss of later phases, and what is done to the classifier; a method ignores the rest."""

    name: Literal["wa", "finetune", "replay", "joint", "lwf", "icarl", "ewc", "mas", "bic", "podnet", "der"] = "wa"
    temperature: Annotated[float, Interval(gt=0)] = 2.0  # T of the distillation's softmax
    kd_combination: Literal["convex", "sum"] = "convex"  # (1 - w) CE + w KD, or CE + w KD
    # w of kd_combination; dynamic: num_old / classes seen
    kd_weight: Literal["dynamic"] | Annotated[float, Interval(ge=0)] = "dynamic"
    clip_weights: bool = False  # classifier weights >= 0 after each update
    align: bool = True  # wa: scale the new rows to the old rows' mean norm after each phase
    label_smoothing: Fraction = 0.0  # share of the target spread over all classes
    lwf_classes: Literal["new", "seen"] = "new"  # lwf: classes of a later phase's cross-entropy


class PhaseOptim(Table):
    """What a phase may have of its own: all of [optim]."""

    epochs: Positive = 170  # passes over the phase's training data
    batch_size: Images = 128  # images a step, on all devices together
    norm_batch: Zero | Images = 0  # images that share statistics; 0: all
    learning_rate: Annotated[float, Interval(gt=0)] = 0.1  # at the start, after warm-up
    momentum: Fraction = 0.9  # of SGD
    weight_decay: Annotated[float, Interval(ge=0)] = 5e-4  # added to the gradient, times the weight
    schedule: Literal["cosine", "milestones", "constant"] = "cosine"  # changes once an epoch
    milestones: Epochs = ()  # epochs at which the rate is multiplied; cosine ignores them
    milestone_factor: Annotated[float, Interval(gt=0, lt=1)] = 0.1  # by this
    warmup_epochs: Count = 0  # epochs of linear increase to learning_rate
    eval_every_epochs: Count = 0  # test every so many epochs, by logits, before aligning; 0: at phase ends alone


FirstPhase = create_model(
    "FirstPhase",
    __base__=Table,
    __doc__="[optim.first_phase]: any key of [optim] again, for phase 0 alone.",
    **{name: (hint | None, None) for name, hint in PhaseOptim.__annotations__.items()},
)


class Optim(PhaseOptim):
    """[optim]: SGD and its schedule, which start anew in each phase."""

    first_phase: FirstPhase = FirstPhase()


class Checkpoint(Table):
    """[checkpoint]: what a run that was stopped goes on from."""

    every_seconds: Annotated[float, Interval(gt=0)] = 60.0  # between two saves inside a phase


class Config(Table):
    """A whole configuration. Lists in it are tuples; `optim_of_phase` merges [optim.first_phase]."""

    run: Run = Run()
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    memory: Memory = Memory()
    method: Method = Method()
    optim: Optim = Optim()
    checkpoint: Checkpoint = Checkpoint()

    def optim_of_phase(self, phase: int) -> Optim:
        """[optim] as phase `phase` (0, 1, ...) has it: phase 0 with [optim.first_phase] merged in.

        The first_phase of what comes back is empty.
        """
        own = self.optim.first_phase.model_dump(exclude_none=True) if phase == 0 else {}
        return Optim(**(self.optim.model_dump(exclude={"first_phase"}) | own))
