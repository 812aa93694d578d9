"""The finished model on disk: tensors in safetensors, everything else in JSON."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from cil_func import events, tree

FORMAT = 1


def save_model(directory: Path, params: tree.Tree, state: tree.Tree, description: dict) -> None:
    """Writes model.safetensors and model.json.

    Tensor names are paths: `params.backbone.resnet32.stem.conv.weight`, `state.backbone...`. The
    description (JSON-able) says what a prediction needs: class names, preprocessing.
    """
    tensors = tree.to_paths({"params": params, "state": state})
    tensors = {path: leaf.detach().cpu().contiguous() for path, leaf in tensors.items()}
    save_file(tensors, directory / "model.safetensors")
    events.write_json(directory / "model.json", {"format": FORMAT, **description})


def load_model(directory: Path) -> tuple[tree.Tree, tree.Tree, dict]:
    """(params, state, description) as `save_model` wrote them; `model.apply` takes the first two."""
    description = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    trees = tree.from_paths(load_file(directory / "model.safetensors"))
    return trees["params"], trees.get("state", {}), description
