"""The schema of the configuration: one class a table, and under each key its meaning.

The string under a key is what `train.py --explain KEY`, README.md's table and the JSON schema say about it. The
defaults are those of `cifar.toml`, with one norm group of 128 images and without RandAugment. What two keys must not be
together is in `combinations.py`.

A new key needs its string here and its entry in `effects.TABLE`. Its default has to keep earlier results; it is named
in `load.ADDED`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from cil_func.config import combinations, messages, values
from cil_func.config.free_table import FreeTable
from cil_func.errors import ConfigError


class Table(BaseModel):
    """Base of the tables. Refuses unknown keys, values of another type, NaN and infinity. Can't be changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Run(Table):
    """[run]: where and how the arithmetic is done."""

    seed: values.Seed = 0
    "Seed of the weights, the order of images, their augmentation and the random selection of exemplars."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the training. auto: cuda where torch finds a GPU that it can use, else cpu, with a warning if there is
    one that it can't use."""
    precision: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    """Number format of the convolutions and matrix products. auto: bfloat16 where the hardware has it, else float32.
    float32 is IEEE's, never TF32, not on a GPU either. float64 is for tests of equality."""
    compile: bool = True
    "Whether torch.compile compiles the whole training step: about a minute at first, faster afterwards."
    recompute: bool = False
    """Whether the backward pass computes each block of the backbone again instead of keeping what it needs of it
    (activation checkpointing): less memory, more time. Needs compile = false."""
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    "CPU threads of each process. 0: torch's own choice; of several processes the smallest one."
    timeout_seconds: Annotated[float, Interval(gt=0, le=86_400)] = 120.0
    "Seconds for which a process may keep the others waiting without progress, before the run ends."
    extends: values.Folder = ""
    """Directory of a finished run whose model, exemplars and classes this run starts from; data.* is about the new
    classes alone. `train.py --extend RUN` sets it."""
    loggers: values.Loggers = ()
    """Where the run's numbers go besides its own files. tensorboard: into the run directory's tensorboard/. wandb: to
    Weights & Biases, as its own settings say. Each needs its package."""


class Data(Table):
    """[data]: the images, and which classes come in which phase."""

    name: (
        Literal["digits", "cifar100", "image_folder", "imagenet100", "imagenet1000", "cub200", "core50"] | values.Own
    ) = "cifar100"
    "The data set."
    options: FreeTable = FreeTable()
    "Keywords for a data set of your own; the built-in ones take none."
    path: values.Folder = ""
    """Folder of the images. image_folder and imagenet* need one, which holds train/ and test/ or val/; cub200 and
    core50 one like that, or the unpacked archive. cifar100 is downloaded into it; "": into .data in the current
    directory."""
    subset: values.Subset = ""
    """Which class folders of data.path are used. "": all. first-100, seed-1993: the ImageNet-100 of PODNet and
    DyTox, and that of LUCIR, chosen from all of ImageNet. Else a text file with a class in each line."""
    on_error: Literal["stop", "skip"] = "stop"
    "What happens to an image file that can't be read. stop: the run ends and names it. skip: the results list it."
    exif_orientation: Literal["auto", "apply", "ignore"] = "auto"
    "Whether EXIF's orientation turns an image file. auto: apply for image_folder, else ignore, as papers do."
    background: values.Colour = (255, 255, 255)
    "Colour (red, green, blue) behind transparent pixels of an image file. []: the alpha channel is dropped."
    image_size: values.Zero | Annotated[int, Interval(ge=8, le=1024)] = 0
    "Pixels a side to which images are resized. 0: the images' own size."
    storage: Literal["auto", "resident", "streaming", "packed"] = "auto"
    """Where images are. resident: all in memory. streaming: in their files, decoded when they are trained on. packed:
    decoded once for all runs, into a file of their pixels on the disk. auto: streaming for files whose pixels need more
    than half of the free memory, and with augment.window; else resident."""
    packed: values.Folder = ""
    """Folder of the file of storage = "packed". "": the folder packed in data.path, or .data/packed in the current
    directory if data.path can't be written."""
    workers: Literal["auto"] | values.Workers = "auto"
    """Processes that decode images for each process of the run, where they are in files. 0: a thread of the run.
    auto: all cores but at most 16, and at most 2 where the CPU trains. Results don't depend on it."""
    initial_increment: values.Count = 0
    "Number of classes in the first phase. 0: the first of increment."
    increment: Literal["auto"] | values.Positive | values.Sizes = 10
    """Number of classes in each later phase, of which the last may have fewer. A list: the sizes of the later phases
    one by one; with initial_increment they have to add up to all classes. auto: a fifth of the classes, and at least
    two in the first phase; with run.extends all new classes."""
    class_order: values.ClassOrder = "canonical"
    """Order in which classes come. canonical: numpy's RandomState(1993).permutation, the field's order. shuffled: drawn
    by order_seed. sorted: as they are numbered. A list: class indices or names."""
    order_seed: values.Seed = 0
    'Seed of class_order = "shuffled".'
    phases: values.Count = 0
    "Number of phases that the run learns, the first ones. 0: all."
    validation: values.Fraction = 0.0
    """Share of each class's training images that is kept out of training and memory, and measured as the test images
    are. Which images depends on the class alone, not on a seed. 0: none."""
    tests_on: Literal["test", "validation"] = "test"
    """Images on which all accuracies are measured. test: the test images, and beside them those of data.validation.
    validation: those of data.validation alone; the test images stay unseen, as a search for values needs it."""
    mean: values.Means = ()
    "Mean of each channel, of pixels in 0..1, that is subtracted. []: computed from the first phase's training images."
    std: values.Deviations = ()
    "Standard deviation of each channel, by which pixels are divided. []: as for mean."


class Augment(Table):
    """[augment]: what happens to a training image each time it is seen."""

    auto_augment: values.RandAugment = ""
    'RandAugment policy as a timm string. "": none.'
    backend: Literal["device", "pil"] = "device"
    "What computes auto_augment. device: whole batches, where the images are. pil: timm with Pillow, other draws."
    window: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Smallest share of an image's area that a random window covers, which is brought to data.image_size: torchvision's
    RandomResizedCrop, 0.08 in ImageNet's recipes. The ratio of its sides is between 3/4 and 4/3. 0: no window."""
    crop_padding: Annotated[int, Interval(ge=0, le=64)] = 4
    "Pixels of zeros added on each side before a random crop to the image's size."
    flip: bool = True
    "Whether an image is mirrored left to right, with probability 1/2."
    brightness: values.Strength = 0.0
    "b: pixels are multiplied by a factor drawn from [1 - b, 1 + b]."
    contrast: values.Strength = 0.0
    "c: the distance of a pixel from the image's mean grey is multiplied by a factor drawn from [1 - c, 1 + c]."
    saturation: values.Strength = 0.0
    "s: the distance of a pixel from its grey is multiplied by a factor drawn from [1 - s, 1 + s]."
    erasing: values.Strength = 0.0
    "Probability that a random rectangle of an image is filled with the mean colour."


class Model(Table):
    """[model]: the network in front of the classifier."""

    backbone: values.Backbone | values.Own = "resnet32"
    "The network that computes features: a ResNet for CIFAR, or a timm model by its name."
    options: FreeTable = FreeTable()
    "Keywords for a backbone of your own; the resnets take none."
    weights: values.Folder = ""
    """File of the backbone's pretrained weights, as timm names them (.safetensors, or .pth with tensors alone), or
    model.safetensors of a finished run. Where they are not set, data.image_size, mean and std are the model's own."""
    freeze: values.Patterns = ()
    """Parts of the backbone that are not trained, by their paths: "backbone" is all of it, "backbone.layer[12]" two
    stages of timm's resnet18. Their batch norm uses its running statistics."""
    drop_rate: values.Fraction = 0.0
    "Share of a timm backbone's features that dropout leaves out, whatever the model's own rate is."
    drop_path_rate: values.Fraction = 0.0
    "Share of a timm backbone's blocks that stochastic depth leaves out for an image, whatever the model's own rate is."


class Memory(Table):
    """[memory]: the images of old classes that are kept, the exemplars."""

    size: values.Count = 2000
    "Number of exemplars of all classes together; each class has size // classes seen."
    fixed_per_class: values.Count = 0
    "Number of exemplars of each class, whatever size says. 0: size decides."
    selection: Literal["herding", "random", "closest"] = "herding"
    """How exemplars are chosen. herding: so that the mean feature of the first ones is nearest to the class's, for any
    number of them (iCaRL). closest: those nearest to the class's mean feature."""
    mirror_means: bool = False
    "Whether class means, for the nearest class mean, count each exemplar's mirror image too, as the original iCaRL."
    keep: bool = True
    "Whether a finished run keeps its exemplars as image files, from which new classes can be added later."


class Method(Table):
    """[method]: how old classes are remembered. A method ignores the keys that it doesn't use."""

    name: (
        Literal[
            "wa", "finetune", "replay", "joint", "lwf", "icarl", "ewc", "mas", "bic", "podnet", "der",
            "icarl-bce", "balanced", "eeil", "lucir",
            "ncm", "simplecil", "ranpac", "fetril",
            "si", "rwalk",
            "il2m", "lwm",
            "derpp", "agem", "gem",
            "memo", "foster", "coil", "tagfex",
        ]
        | values.Own
    ) = "wa"  # fmt: skip
    "The method of class-incremental learning."
    options: FreeTable = FreeTable()
    "Keywords of the method's own function, beside the keys of this table."
    temperature: Annotated[float, Interval(gt=0)] = 2.0
    "T by which logits are divided before the softmax of the distillation."
    kd_combination: Literal["convex", "sum"] = "convex"
    "How cross-entropy CE and distillation KD are added, w being kd_weight. convex: (1 - w) CE + w KD. sum: CE + w KD."
    kd_weight: Literal["dynamic"] | Annotated[float, Interval(ge=0)] = "dynamic"
    "w of kd_combination. dynamic: number of old classes / number of classes seen."
    clip_weights: bool = False
    "Whether the classifier's weights are set to at least 0 after each update."
    align: bool = True
    "Whether new rows of the classifier are scaled to the mean norm of the old ones after each phase (weight aligning)."
    label_smoothing: values.Fraction = 0.0
    "Share of the target that cross-entropy spreads evenly over all classes."
    lwf_classes: Literal["new", "seen"] = "new"
    "Classes over which the cross-entropy of later phases is taken. new: the phase's own. seen: all."


class PhaseOptim(Table):
    """The keys of [optim], which a phase or a stage may have of its own."""

    name: Literal["sgd", "adamw"] | values.Own = "sgd"
    "The optimiser."
    options: FreeTable = FreeTable()
    """Keywords of the optimiser. sgd: nesterov, no_decay. adamw: betas, eps, no_decay. no_decay: patterns of parameters
    without weight decay, as "*.bias"."""
    epochs: values.Positive = 170
    "Number of passes over the phase's training images."
    batch_size: values.Images = 128
    "Images a batch, of all devices together."
    accumulate: values.Positive = 1
    "Into how many parts of whole norm groups a batch is cut, at most; their gradients are added up for one update."
    norm_batch: values.Zero | values.Images = 0
    "Number of images that share batch norm's statistics. 0: the whole batch, or each part of accumulate."
    learning_rate: Annotated[float, Interval(gt=0)] = 0.1
    "Learning rate at the start, after warm-up."
    momentum: values.Fraction = 0.9
    "Momentum of sgd; adamw has betas in its options."
    weight_decay: Annotated[float, Interval(ge=0)] = 5e-4
    "Weight decay. sgd adds it, times the weight, to the gradient; adamw subtracts rate * weight_decay * weight."
    schedule: Literal["cosine", "milestones", "constant"] = "cosine"
    """How the learning rate changes, once an epoch. cosine: falls to 0 on half a cosine. milestones: is multiplied by
    milestone_factor at each of milestones. constant: stays."""
    milestones: values.Epochs = ()
    'Epochs at which schedule = "milestones" multiplies the rate.'
    milestone_factor: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    "Factor by which the rate is multiplied at each of milestones."
    rate_factors: values.RateFactors = ()
    """Factors of the learning rate for parameters by their paths, as [["backbone.layer1", 0.1], ["backbone", 0.3]]; the
    first path that matches holds."""
    warmup_epochs: values.Count = 0
    "Number of epochs in which the rate first rises in equal steps to learning_rate."
    eval_every_epochs: values.Count = 0
    """Epochs between two tests of the classifier inside a phase, before aligning, on the validation images where there
    are some, else on the test images. 0: only phase ends are tested."""


if TYPE_CHECKING:

    class PartOfOptim(Table):
        """See below. Its fields exist at run time alone; read them by `getattr`."""

else:
    PartOfOptim = create_model(
        "PartOfOptim",
        __base__=Table,
        __doc__="[optim.first_phase], [optim.STAGE]: any key of [optim] again, for phase 0 or one stage of a method.",
        **{name: (hint | None, None) for name, hint in PhaseOptim.__annotations__.items()},
    )


class Optim(PhaseOptim):
    """[optim]: the optimiser and its schedule, which start anew in each phase. [optim.STAGE]: any of its keys again,
    for a stage of a method (bic: bias; podnet, balanced, eeil, lucir: balance; foster: compress).

    pydantic takes any name of a table for a stage's; `load` refuses those that can't be one (`stages.py`).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PartOfOptim]

    first_phase: PartOfOptim = PartOfOptim()
    "Any key of [optim] again, for phase 0 alone."

    @property
    def stages(self) -> dict[str, PartOfOptim]:
        """{name of a stage: its table [optim.STAGE]}, of those that the configuration has."""
        return dict(self.model_extra or {})


class Checkpoint(Table):
    """[checkpoint]: what a run that was stopped goes on from."""

    every_seconds: Annotated[float, Interval(gt=0)] = 60.0
    "Seconds between two checkpoints inside a phase."


class Config(Table):
    """A whole configuration. Lists in it are tuples, free tables are FreeTables."""

    run: Run = Run()
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    memory: Memory = Memory()
    method: Method = Method()
    optim: Optim = Optim()  # type: ignore[call-arg]  # mypy takes __pydantic_extra__ for a field without a default
    checkpoint: Checkpoint = Checkpoint()

    def optim_of_phase(self, phase: int) -> PhaseOptim:
        """Returns [optim] as it holds for the training that a phase (0, 1, ...) begins with.

        For phase 0 the keys of [optim.first_phase] replace [optim]'s. If they name another optimiser and give no
        options, the options are empty: [optim]'s were for the other one. See `optim_of_stage`.
        """
        return self.optim_of_stage(phase, "")

    def optim_of_stage(self, phase: int, stage: str, defaults: Mapping[str, Any] | None = None) -> PhaseOptim:
        """Returns [optim] as it holds for a stage of phase `phase` (0, 1, ...).

        stage: the name of a method's stage; "": the training that each phase begins with. defaults: {key of [optim]:
        the stage's own default}; None: it has none. A key comes from the first of these that has it: [optim.STAGE];
        defaults; [optim.first_phase], for phase 0 and stage ""; [optim]. Where one of them names another optimiser and
        gives no options, the options are empty.
        Raises ConfigError if what a stage has doesn't fit together.
        """
        own = self.optim.stages.get(stage, PartOfOptim())
        first = self.optim.first_phase if phase == 0 and not stage else PartOfOptim()
        merged = {key: getattr(self.optim, key) for key in PhaseOptim.model_fields}
        for part in (_set_keys(first), dict(defaults or {}), _set_keys(own)):
            if part.get("name", merged["name"]) != merged["name"]:
                merged["options"] = FreeTable()
            merged |= part
        try:
            optim = PhaseOptim(**merged)
        except ValidationError as failure:  # of the defaults, which a method of the user's own may have given
            mistakes = messages.mistakes_in(merged, failure, messages.hints_of(PhaseOptim))
            raise ConfigError(f"optim.{stage or 'first_phase'}.{mistakes[0]}") from None
        mistakes = list(combinations.of_optim(optim, f"optim.{stage}")) if stage else []
        if mistakes:
            raise messages.first_of(mistakes)
        return optim


def _set_keys(part: PartOfOptim) -> dict[str, Any]:
    """Returns {key: value} of the keys that are set in [optim.first_phase] or [optim.STAGE]."""
    return {key: value for key in PhaseOptim.model_fields if (value := getattr(part, key)) is not None}
