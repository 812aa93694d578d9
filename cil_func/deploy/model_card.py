"""Describes a finished model to strangers: the card and the configuration files of a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

from cil_func.deploy.predictor import Predictor
from cil_func.errors import ConfigError
from cil_func.report import tables
from cil_func.runs import files, report_files

_USE = """\
```python
import numpy as np, torch
from PIL import Image, ImageOps

model = torch.export.load("model.pt2").module()
image = {image}
probabilities = model(torch.from_numpy(np.array(image))[None])  # uint8 (B, {height}, {width}, 3) -> (B, {count})
```
"""

_LIMITS = """\
The model names one of the classes below for every image, also for an image of none of them. It was trained phase by
phase, and keeps only a few images of the classes of earlier phases: classes that came early may be recognised less well
than the accuracy over all classes says; the table shows it phase by phase. Try it on images of your own before relying
on it.
"""

_NO_RESULTS = "The run's directory had no results.json when this was exported.\n"
_UNREADABLE = "The run's results.json could not be read when this was exported.\n"
_EDITED = "Classes were dropped from this model after its training, and nothing was measured of it since.\n"


def config(model: Predictor) -> dict[str, Any]:
    """Returns the content of config.json: architecture, classes by number and image size, by the hub's keys."""
    names, description = model.class_names, model.saved.description
    return {
        "architectures": [description["backbone"]],
        "num_labels": len(names),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "image_size": list(model.reader.size),
        "method": description["method"],
        "predict": description["predict"],
        "temperature": model.temperature,
    }


def preprocessor(model: Predictor) -> dict[str, Any]:
    """Returns the content of preprocessor_config.json, by the hub's keys: how images are resized and normalised."""
    settings, (height, width) = model.saved.description["preprocessing"], model.reader.size
    return {
        "do_resize": model.reader.resizes,
        "size": {"shortest_edge": height},
        "resample": 3,  # Pillow's number of bicubic
        "do_center_crop": model.reader.resizes,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": settings["mean"],
        "image_std": settings["std"],
    }


def card(model: Predictor, run: Path) -> str:
    """Returns the text of README.md: what the model is for, its classes, results, recipe and lineage.

    run: the run directory; if it has no results, the card says why.
    """
    description, (height, width) = model.saved.description, model.reader.size
    results, why_none = _results(run)
    opened = 'Image.open("photo.png")'
    image = f'{f"ImageOps.exif_transpose({opened})" if model.reader.rules.upright else opened}.convert("RGB")'
    image = f"ImageOps.fit({image}, {width, height}, Image.Resampling.BICUBIC)" if model.reader.resizes else image
    use = _USE.format(image=image, height=height, width=width, count=len(model.class_names))
    without_title = tables.markdown(results).partition("\n")[2].strip() + "\n" if results else ""
    sections = {
        "Use": use + _resize(model),
        "Intended use and limits": _LIMITS,
        "Classes": ", ".join(map(_plain, model.class_names)) + "\n",
        "Calibration": _calibration(model),
        "Lineage": _block("json", json.dumps(_lineage(description), indent=2, ensure_ascii=False)),
        "Results": without_title or why_none,  # ends in a section on the recipe
    }
    backbone, method = description["backbone"], description["method"]
    title = f"# {_plain(backbone)}, {len(model.class_names)} classes, learned by {_plain(method)}\n"
    parts = [f"## {name}\n\n{text}" for name, text in sections.items()]
    return "\n".join([_front_matter(description, results), title, *parts])


def _results(run: Path) -> tuple[dict[str, Any], str]:
    """Returns (the content of a run's results.json, ""), or ({}, why nothing in it can be shown)."""
    path = run / "results.json"
    try:
        return dict(report_files.read_run(run).results), ""
    except ConfigError:
        if not path.exists():
            return {}, _NO_RESULTS
    return {}, _EDITED if files.read_object(path).get("before_edit") else _UNREADABLE


def _front_matter(description: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the card's YAML, which the hub reads. JSON's texts and numbers are YAML too."""
    lines = ["---", "library_name: pytorch", "pipeline_tag: image-classification"]
    lines += ["tags:", "- class-incremental-learning", f"- {json.dumps(description['method'])}"]
    if results:
        images = ", on validation images" if tables.on_validation_images(results) else ""
        held = len(results.get("held_out") or ())
        images += f", {held} of {len(description['classes'])} classes on exemplars" if held else ""
        measured = {"name": f"top-1 accuracy on all classes, percent{images}", "type": "accuracy"}
        task = {"type": "image-classification"}
        data = {"name": str(results.get("config", {}).get("data", {}).get("name", "images")), "type": "images"}
        found = [{"task": task, "dataset": data, "metrics": [measured | {"value": results["last_accuracy"]}]}]
        lines.append(f"model-index: {json.dumps([{'name': description['backbone'], 'results': found}])}")
    return "\n".join([*lines, "---", ""])


def _resize(model: Predictor) -> str:
    """Returns how training has brought images to the model's size, and what the example leaves out."""
    if not model.reader.resizes:
        return "\nTraining has resized nothing: images have to be of this size.\n"
    return (
        "\nTraining has turned images upright by EXIF's orientation, put the background behind transparent pixels, "
        "brought the shorter side to that size (bicubic, antialiased) and cut out the centre: see model.json, "
        '"preprocessing". The example puts no background behind transparent pixels, and cuts off values of 16 bits.\n'
    )


def _calibration(model: Predictor) -> str:
    """Returns what the command calibrate has found, or that it was not used."""
    if model.calibration is None:
        return "Not calibrated: the probabilities are those of training, usually too sure.\n"
    report = model.calibration.report
    return (
        f"Temperature {model.temperature:.3f}, fitted on {report['images']} images that training has not seen. "
        "Fitted on half of them and measured on the other, the expected calibration error is "
        f"{100 * report['ece_before']:.1f} % before and {100 * report['ece_after']:.1f} % after.\n"
    )


def _lineage(description: dict[str, Any]) -> dict[str, Any]:
    """Returns what model.json says about where the model comes from."""
    keys = ("lineage", "phases", "precision", "sha256")
    return {key: description[key] for key in keys if key in description}


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def _plain(text: str) -> str:
    """Returns a name on one line, with what Markdown would take for markup escaped."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(text.split()))
