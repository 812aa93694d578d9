"""One run and its directory: from a configuration to results, the saved model and a report."""

from pathlib import Path

import torch

from cil_func import checkpoint, events, experiment, planning, setup
from cil_func import config as configuration
from cil_func.config import Config
from cil_func.errors import CilError, ConfigError
from cil_func.report import console, figures

INTERRUPTED = 130
MARKS = ("config.toml", "metrics.jsonl", "results.json", "model.safetensors")  # of a run that has begun


def run(config: Config, directory: Path) -> int:
    """Trains, and returns the exit status 0. The run directory is the contract's (README).

    Raises ConfigError where the directory holds a run or can't be written, and whatever stops the run,
    after it was written to status.json.
    """
    _claim(directory)
    status = events.Status(directory)
    status.running()
    try:
        _train(config, directory)
    except KeyboardInterrupt:
        status.stopped(INTERRUPTED, "interrupted")
        raise
    except CilError as error:
        status.failed(error.exit_status, str(error))
        raise
    except Exception as error:
        status.failed(1, f"{type(error).__name__}: {error}")
        raise
    status.finished()
    return 0


def plan(config: Config) -> str:
    """What a run of this configuration would do, as text; builds everything, trains nothing."""
    return planning.describe(setup.build(config))


def profile(config: Config, directory: Path, steps: int) -> str:
    """Traces `steps` training steps into directory/trace.json; the report as text."""
    from cil_func import profiling  # late: torch's profiler costs a moment, and few runs want it

    return profiling.run(config, directory, steps)


def _claim(directory: Path) -> None:
    """Makes the run directory; refuses one that holds a run, for continuing is not built yet."""
    held = [name for name in MARKS if (directory / name).exists()]
    if held:
        raise ConfigError(
            f"{directory} already holds a run ({held[0]}); choose another with --out, or move it away"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {directory}: can't be made ({error.strerror})") from error


def _train(config: Config, directory: Path) -> None:
    ready = setup.build(config)
    header = {
        "method": ready.method.name,
        "class_order": list(ready.scenario.class_order),
        "num_classes": ready.num_classes,
        "seed": ready.config.run.seed,
        "config": configuration.to_dict(ready.config),
    }
    environment = setup.environment(ready)
    events.write_text(directory / "config.toml", configuration.to_toml(ready.config))

    def save(results: dict) -> None:
        events.write_json(directory / "results.json", header | results | {"environment": environment})

    with events.Log(directory / "metrics.jsonl") as log, console.make() as show:

        def emit(event: dict) -> None:
            log(event)
            show(event)

        emit(planning.run_start(ready) | {"directory": str(directory)})
        (params, state), results = experiment.run(ready, emit=emit, save=save)
        checkpoint.save_model(directory, params, state, _description(ready))
        figures.write(directory)
        keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
        seconds = sum(sum(row["seconds"].values()) for row in results["phases"])
        emit({"event": "run_end", "seconds": seconds, **{key: results[key] for key in keys}})


def _description(ready: setup.Setup) -> dict:
    """What model.json says: all that a prediction needs besides the tensors."""
    order, preprocess = ready.scenario.class_order, ready.preprocess
    return {
        "backbone": ready.config.model.backbone,
        "classes": [{"index": index, "name": ready.class_names[index]} for index in order],  # by row
        "preprocessing": {
            "image_size": list(ready.train_images.shape[1:3]),
            "mean": preprocess.mean.to(torch.float64).tolist(),
            "std": preprocess.std.to(torch.float64).tolist(),
        },
        "precision": ready.config.run.precision,
    }
