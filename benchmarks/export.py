"""How fast do exported models answer, beside the model itself? `python -m benchmarks.export`.

A model with random weights, resnet32 and 100 classes at 32 x 32 pixels, answers one image, and a batch of 128: as a
`cil_func.load` Predictor ("eager"), by torch.export's file ("pt2") and in onnxruntime ("onnx", where it is installed).
Each exported one is called in turn with the eager one; times are medians, speedup_* the median of the paired ratios,
eager over exported, with the same number of threads. Before, all must give the same probabilities within 1e-5.
"""

import io
import statistics
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch

from benchmarks import measure
from cil_func import model
from cil_func.data.reading import image_file
from cil_func.deploy import export, inputs
from cil_func.deploy.portable import Portable
from cil_func.deploy.predictor import Predictor
from cil_func.runs import saved_model
from cil_func.runs.checkpoints import SavedModel

BATCHES = (1, 128)
BACKBONE, CLASSES = "resnet32", 100

Answer = Callable[[torch.Tensor], torch.Tensor]  # images uint8 (B, H, W, 3) -> probabilities (B, K)


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"backbone": BACKBONE, "repeats": options.repeats}
    predictor = drawn()
    figures: dict[str, float] = {}
    answers = exported(predictor)
    with torch.inference_mode():
        for name, answer in answers.items():
            for count in BATCHES:
                figures |= compared(name, answer, predictor, count, options.repeats)
    measure.table([("figure", "value"), *figures.items()])
    print(measure.write("export", figures, conditions, options.json))
    return 0


def drawn() -> Predictor:
    """Returns a Predictor of a model with random weights, as a run in float32 would have left it."""
    preprocessing = {
        "image_size": [32, 32], "exif_orientation": "apply", "background": [255, 255, 255],
        "resize": image_file.RESIZE, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    description = {
        "method": "wa", "predict": "logits", "backbone": BACKBONE, "phases": [CLASSES], "precision": "float32",
        "config": {"method": {"name": "wa"}, "model": {"backbone": BACKBONE}}, "preprocessing": preprocessing,
        "classes": [{"index": index, "name": str(index)} for index in range(CLASSES)], "sha256": "",
    }  # fmt: skip
    saved = SavedModel(*model.init(0, BACKBONE, CLASSES), None, description)
    return Predictor(saved_model.scorer(saved), inputs.reader_of(preprocessing))


def exported(predictor: Predictor) -> dict[str, Answer]:
    """Returns {"pt2": ..., "onnx": ...}, the exported models, without those whose packages are missing."""
    program = export.exported(Portable(predictor))
    found: dict[str, Answer] = {"pt2": program.module()}
    if all(map(find_spec, export.PACKAGES)):
        buffer = io.BytesIO()
        export.as_onnx(program).save(buffer)
        found["onnx"] = export.in_onnxruntime(buffer.getvalue(), threads=torch.get_num_threads())
    return found


def compared(name: str, answer: Answer, predictor: Predictor, count: int, repeats: int) -> dict[str, float]:
    """Returns the figures of an exported model on batches of `count` images. Raises RuntimeError if answers differ."""
    images = Portable(predictor).example(count)
    difference = (answer(images).double() - predictor(images)).abs().max().item()
    if not difference < 1e-5:
        raise RuntimeError(f"export: probabilities of {name} differ by {difference}")
    eager, theirs = measure.paired(lambda: predictor(images), lambda: answer(images), repeats=repeats, warmup=3)
    return {
        f"seconds_eager_{count}_beside_{name}": statistics.median(eager),
        f"seconds_{name}_{count}": statistics.median(theirs),
        f"speedup_{name}_{count}": measure.ratio(eager, theirs),
        f"difference_{name}_{count}": difference,
    }


if __name__ == "__main__":
    sys.exit(main())
