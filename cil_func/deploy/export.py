"""The command `python -m cil_func export RUN`: writes the model so that it runs without this package."""

import argparse
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cil_func.config.parser import Parser
from cil_func.deploy import calibration, model_card, predictor
from cil_func.deploy.answering import answered
from cil_func.deploy.portable import Portable
from cil_func.deploy.predictor import Predictor
from cil_func.errors import CilError, ConfigError, printable
from cil_func.runs import checkpoints, files, output

PREPROCESSOR = "preprocessor_config.json"  # a folder that holds it, and a model.json of ours, is an export
_UNFINISHED = ".export.tmp"
SUFFIX = {"pt2": ".pt2", "onnx": ".onnx", "hf": "-hf"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of --to onnx
_CLOSE = 1e-4  # how far an exported probability may be from ours; float32 itself gives about 1e-6


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status.

    arguments: the flags, without the program's name; None: those of this process.
    0: the file is written and gives the model's answers. 2: a wrong flag or RUN, or a package is missing. 5: the run is
    not finished, or its model is damaged. 74: the file can't be written.
    """
    return answered("export", lambda: _export(_parse(arguments)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func export", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the directory of a finished run")
    parser.add_argument("--to", choices=list(SUFFIX), default="pt2", help="torch.export's format (default), ONNX, or "
                        "a folder as on the Hugging Face hub")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="PATH", help="the file, for hf the folder; default RUN's name here")
    return parser.parse_args(arguments)


def _export(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    run = Path(os.path.expanduser(options.run))
    model = predictor.load(run, device="cpu")
    out = Path(os.path.expanduser(options.out or run.resolve().name + SUFFIX[options.to]))
    if out.is_dir() != (options.to == "hf") and out.exists():
        raise ConfigError(f"--out {out}: it is a {'folder' if out.is_dir() else 'file'}; give another name")
    if out.is_file() and out.suffix != SUFFIX[options.to]:
        raise ConfigError(f"--out {out}: only a file that ends in {SUFFIX[options.to]} is replaced; give another name")
    there = {path.name for path in out.iterdir()} - {_UNFINISHED} if out.is_dir() else set()
    ours = "preprocessing" in files.read_object(out / "model.json")  # as a run's, whose other files an export hasn't
    if there and not (ours and (PREPROCESSOR in there or there == {"model.json"})):
        raise ConfigError(f"--out {out}: it holds other files than an export's; give another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or give another name")
    output.say("\n".join(map(printable, WRITERS[options.to](model, run, out))))
    return 0


def write_pt2(model: Predictor, run: Path, out: Path) -> list[str]:
    """Writes the model as a file of `torch.export`. Returns a line that says how near its answers are. run: not used.

    `torch.export.load(out).module()` takes uint8 images (B, H, W, 3) of the model's size, for any B, and returns the
    probabilities (B, K), float32. The archive's extra file "model.json" is that of the run.
    Raises DiskError if it can't be written, CilError if the file gives other answers than the model.
    """
    content, difference = _as_pt2(model)
    files.write_bytes(out, content)
    return [_told(out, len(content), difference)]


def _as_pt2(model: Predictor) -> tuple[bytes, float]:
    """Returns the content of a file of `torch.export`, and how far its probabilities are from the model's at most."""
    buffer = io.BytesIO()
    torch.export.save(exported(Portable(model)), buffer, extra_files={"model.json": _description(model)})
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    return buffer.getvalue(), _checked(model, lambda images: loaded(images))


def write_onnx(model: Predictor, run: Path, out: Path) -> list[str]:
    """Writes the model as an ONNX file. Returns a line that says how near its answers in onnxruntime are.

    run: not used. Input "images" and output "probabilities" are those of `write_pt2`. The metadata "model.json" is that
    of the run.
    A model of a run in bfloat16 computes in float32, since onnxruntime has no convolution in bfloat16.
    Raises ConfigError if a package is missing; DiskError and CilError as `write_pt2` does.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--to onnx needs the packages {', '.join(missing)}; pip install {' '.join(missing)}")
    module = Portable(model, compute_dtype=torch.float32 if _in_bfloat16(model) else None)
    program = as_onnx(exported(module))
    program.model.metadata_props["model.json"] = _description(model)
    buffer = io.BytesIO()
    program.save(buffer)
    difference = _checked(model, in_onnxruntime(buffer.getvalue()), against=module)
    files.write_bytes(out, buffer.getvalue())
    more = " (computed in float32; the run's own bfloat16 rounds more)" if _in_bfloat16(model) else ""
    return [_told(out, len(buffer.getvalue()), difference, more)]


def write_hf(model: Predictor, run: Path, out: Path) -> list[str]:
    """Writes a folder in the layout of the Hugging Face hub. Returns the line of `write_pt2`, and one of what is in it.

    run: the run directory, from which the card takes results and recipe. out: the folder, made if it is missing; its
    files of the same names are replaced, and the calibration of an earlier export goes if the model has none. Nothing
    of it is changed before all files are there. model.safetensors and model.json are the run's own, so that
    `cil_func.load` reads the folder too; model.pt2 is what `write_pt2` writes, config.json names the classes, README.md
    is the card.
    Raises DiskError and CilError as `write_pt2` does.
    """
    content, difference = _as_pt2(model)
    with _beside(out) as folder:
        checkpoints.save_model(folder, model.saved)
        if model.calibration:
            calibration.save(folder, model.calibration, model_sha256=model.saved.description["sha256"])
        files.write_bytes(folder / "model.pt2", content)
        files.write_json(folder / "config.json", model_card.config(model))
        files.write_json(folder / PREPROCESSOR, model_card.preprocessor(model))
        files.write_text(folder / "README.md", model_card.card(model, run))
        with files.disk_errors(out):
            _move(folder, out)
    there = ", ".join(sorted(path.name for path in out.iterdir()))
    return [_told(out / "model.pt2", len(content), difference), f"{out}: {there}"]


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Returns a context manager that yields an empty folder, deleted at the end, which is on the disk of `out`.

    It is _UNFINISHED in `out` if that is there, else beside it. One that a killed process has left is deleted before.
    Raises DiskError.
    """
    place = out.resolve()
    folder = place / _UNFINISHED if place.is_dir() else place.with_name(f".{place.name}{_UNFINISHED}")
    shutil.rmtree(folder, ignore_errors=True)
    files.make_directory(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    """Makes a complete export stand at `out`. Raises OSError.

    folder: of the export, on the same disk. In a folder that is there already its files take the places of those of the
    same names, first those by which an export is known: after an interruption the same command works again.
    """
    if not out.exists():
        os.rename(folder, out)
        return
    names = sorted(os.listdir(folder), key=lambda name: (name != "model.json", name != PREPROCESSOR))
    if calibration.NAME not in names:
        (out / calibration.NAME).unlink(missing_ok=True)
    for name in names:
        os.replace(folder / name, out / name)


WRITERS: dict[str, Callable[[Predictor, Path, Path], list[str]]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
    "hf": write_hf,
}


def exported(module: Portable) -> torch.export.ExportedProgram:
    """Returns the module as torch.export's program, whose batch may be of any size."""
    with _quiet():
        return torch.export.export(
            module, (module.example(2),), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
        )


def as_onnx(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    """Returns the program in ONNX, with the input "images" and the output "probabilities"."""
    with _quiet():
        found = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["probabilities"], verbose=False
        )
    assert found, "torch.onnx.export returns the program if it is given no file"
    return found


def in_onnxruntime(content: bytes, *, threads: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the function images uint8 (B, H, W, 3) -> probabilities (B, K) that an ONNX file holds, on a CPU.

    threads: how many it computes with; 0: onnxruntime's own choice.
    """
    import onnxruntime  # late: it is optional

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@contextmanager
def _quiet():
    """Returns a context manager that hides what torch's exporters warn and log of their own inner workings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _checked(model: Predictor, answer: Callable[[torch.Tensor], Any], against: Portable | None = None) -> float:
    """Returns how far the probabilities of an exported model are from those of the model, at most, on random images.

    answer(images) -> probabilities (B, K). against: what to compare with; None: the model itself.
    Raises CilError if that is far.
    """
    pixels = Portable(model).example(9)
    expected = model.of_pixels(pixels) if against is None else against(pixels).double()
    found = torch.cat([answer(pixels[:1]), answer(pixels[1:])]).double()  # batches of another size than the example
    difference = (found - expected).abs().max().item()
    if not difference < _CLOSE:
        raise CilError(f"the exported model's probabilities differ by {difference:.1g}; nothing is written")
    return difference


def _in_bfloat16(model: Predictor) -> bool:
    return model.saved.description["precision"] == "bfloat16"


def _description(model: Predictor) -> str:
    return json.dumps(model.saved.description)


def _told(out: Path, size: int, difference: float, more: str = "") -> str:
    """Returns a line with the file that was written, its size in bytes, as MB, and how near its answers are."""
    return f"{out}: {size / 1e6:.1f} MB, probabilities within {difference:.0e} of the model's on 9 random images{more}"
