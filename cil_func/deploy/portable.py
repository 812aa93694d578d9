"""A finished model as a torch.nn.Module that takes pixels and returns probabilities: what `torch.export` needs."""

import torch

from cil_func import tree
from cil_func.deploy.predictor import Predictor
from cil_func.networks import beside
from cil_func.training.preprocess import DTYPES


class Portable(torch.nn.Module):
    """Maps uint8 images (B, H, W, 3) of the model's size to probabilities (B, K), float32, preprocessing included.

    model: whose answers it gives, on the CPU. compute_dtype: of the convolutions; None: the run's own.
    Resizing is not included: it is Pillow's.
    """

    def __init__(self, model: Predictor, compute_dtype: torch.dtype | None = None):
        super().__init__()
        self._model = model
        self._dtype = compute_dtype or DTYPES[model.saved.description["precision"]][1]
        trees = {"params": model.params, "state": model.state}  # a second backbone takes no part in a prediction
        self._trees = {name: {**part, "backbone": beside.alone(part["backbone"])} for name, part in trees.items()}
        for path, leaf in tree.to_paths(self._trees).items():
            self.register_buffer(path.replace(".", "__"), leaf)  # a buffer's name has no dots
        assert model.classes  # made now: the tracing in torch.export can't

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities (B, K), float32. images: uint8 (B, H, W, 3)."""
        trees = self._of_buffers(self._trees, "")
        pixels = self._model.scorer.preprocess(images, self._dtype)  # (B, 3, H, W)
        logits, features, _ = self._model.apply(trees["params"], trees["state"], pixels)
        return self._model.probabilities(self._model.scorer.judged(logits, features)).float()

    def _of_buffers(self, like: tree.Tree, start: str) -> tree.Tree:
        """Returns the tree `like`, nested dicts, with the module's buffers as its leaves. start: of their names."""
        return {
            key: self._of_buffers(part, f"{start}{key}__") if isinstance(part, dict) else getattr(self, start + key)
            for key, part in like.items()
        }

    def example(self, count: int) -> torch.Tensor:
        """Returns `count` images of random pixels, the same ones at each call, that the module takes."""
        height, width = self._model.reader.size
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
