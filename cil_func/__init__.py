"""Class-incremental learning as pure functions over explicit trees of tensors. Start reading at `experiment`.

The modules and folders, from the ground up. Each imports only from those above it (tests/test_rooms.py checks that).

    errors        failures, each with the exit status of its kind
    rng           random numbers from keys: the same key gives the same draws
    tree          algebra of nested dicts of tensors
    classifier    the linear classifier: apply, expand by new classes, align (WA)
    losses        cross-entropy, distillation and the other losses
    herding       which images stand for a class (iCaRL)
    metrics       accuracies, forgetting, transfer, class means
    optim         optimisers as pairs (init, update), learning rates as functions of the epoch
    memory        how many exemplars a class has, and which
    config        the TOML file: its keys, its presets, its mistakes, functions of a user's own by name
    networks      backbones and heads as functions with explicit parameters and state
    model         the simple case as two functions: one backbone with a linear classifier
    methods       a method is a record of functions: wa, icarl, bic, der, ... one short file each
    data          images, phases, batches; data.reading: files and folders; data.augmentation: random changes
    parallel      several processes that share each batch, and which of them failed
    training      the step, its compilation, the loops around it, evaluation
    experiment    the phase loop: the whole method, from top to bottom
    report        what a person sees: the screen, tables, figures
    runs          one run and its directory: setup, plan, checkpoints, signals, the command line
    deploy        what is done with a finished run: predict, calibrate, export, compare, edit
    studies       many runs: sweeps and their tables, what differs between two runs
    tutorial      eight chapters that teach the field by running this package
    __main__      the commands: python -m cil_func

`load(RUN)` returns the finished model of a run, to predict with: probabilities = cil_func.load(RUN)(["photo.jpg"]).
Importing a formula imports nothing above it: `from cil_func import classifier, herding, losses, metrics, model, rng`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cil_func.deploy.predictor import Predictor

__version__ = "0.1.0"


def load(run: "str | Path", *, device: str = "auto") -> "Predictor":
    """Returns the finished model of a run as a `deploy.predictor.Predictor`.

    Called with a list of paths, Pillow images or uint8 arrays (H, W, 3), or an array (B, H, W, 3), it returns the
    classes' probabilities (B, K). run: the run directory, or a copy of it; the training data are not needed. device:
    "auto" (a GPU if torch can use one), "cpu" or "cuda".
    Raises ConfigError if `run` is no run directory, CheckpointError if the run is not finished or its model is damaged.
    """
    from cil_func.deploy import predictor  # late: it imports torch, which a formula's user may not have asked for

    return predictor.load(run, device=device)
