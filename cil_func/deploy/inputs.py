"""Turns files, Pillow images and arrays into the pixels that a model takes, exactly as training has read its images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cil_func.data.reading import decoding, image_file
from cil_func.data.reading.pixels import Rules, UnreadableError
from cil_func.errors import CheckpointError

Item = str | Path | Image.Image | np.ndarray  # one image: a file, an image of Pillow, or pixels uint8 (H, W, 3)


class ImageReader(NamedTuple):
    """Reads images of any kind and brings them to the size of a model.

    size: (H, W). resizes: whether images of another size are resized; if False, they are refused. rules: about
    orientation and transparent pixels.
    """

    size: tuple[int, int]
    resizes: bool
    rules: Rules

    def read(self, items: Sequence[Any]) -> tuple[torch.Tensor, dict[int, str]]:
        """Reads images. Returns (pixels uint8 (N, H, W, 3), {row: reason} of the images that can't be used).

        items: of the kinds of `Item`, in any mixture. The pixels are those of the other rows, in order.
        Raises DataError if the images don't fit into the memory.
        """
        if isinstance(items, (np.ndarray, torch.Tensor)) and tuple(items.shape[1:]) == (*self.size, 3):
            pixels = _pixels(items)
            return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()), {}  # torch warns of others
        if len(items) and all(isinstance(item, (str, os.PathLike)) for item in items):
            files = [os.fspath(item) for item in items]
            side = self.size[0] if self.resizes else 0
            ((pixels, unread),) = decoding.read_all([files], side, stop=False, read=self._file)
            rows = decoding.remove_rows(pixels, unread)
            return torch.from_numpy(rows.reshape(-1, *self.size, 3)), unread  # without rows it knows no size
        found, unread = [np.empty((0, *self.size, 3), dtype=np.uint8)], {}
        for row, item in enumerate(items):
            try:
                found.append(self._one(item)[None])
            except UnreadableError as error:
                unread[row] = str(error)
        return torch.from_numpy(np.concatenate(found)), unread

    def _one(self, item: Any) -> np.ndarray:
        """Returns the pixels (H, W, 3) of one image of any kind. Raises UnreadableError."""
        if isinstance(item, (str, os.PathLike)):
            with image_file.quiet():
                return self._file(os.fspath(item), self.size[0] if self.resizes else 0)
        if not isinstance(item, Image.Image):
            item = _pixels(item)
            if item.ndim != 3 or item.shape[2] != 3:
                raise ValueError(f"an image of shape {item.shape}; give pixels (H, W, 3)")
            if item.shape[:2] == self.size:
                return item
            item = Image.fromarray(item)
        return self._fits(image_file.from_pillow(item, self.size[0] if self.resizes else 0, rules=self.rules))

    def _file(self, file: str, image_size: int = 0) -> np.ndarray:
        """Returns the pixels of a file, see `image_file.read`. A `decoding.Read`."""
        return self._fits(image_file.read(file, image_size, rules=self.rules))

    def _fits(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the pixels. Raises UnreadableError for another size than the model's, if nothing is resized."""
        if self.resizes or pixels.shape[:2] == self.size:
            return pixels
        (height, width), (fits, wide) = pixels.shape[:2], self.size
        raise UnreadableError(f"it is {width}x{height}, and the model was trained on {wide}x{fits} without resizing")


def reader_of(preprocessing: dict[str, Any]) -> ImageReader:
    """Returns the reader that model.json's "preprocessing" describes. Raises CheckpointError for an unknown rule."""
    resize, background = preprocessing["resize"], preprocessing["background"]
    if resize not in (None, image_file.RESIZE):
        raise CheckpointError(f"model.json: this version doesn't know the resize rule {resize}; use the run's version")
    height, width = preprocessing["image_size"]
    rules = Rules(preprocessing["exif_orientation"] == "apply", background and tuple(background))
    return ImageReader((height, width), resize is not None, rules)


def as_items(images: Any) -> Sequence[Any]:
    """Returns what a caller gave as a sequence of images: one path becomes a list of one, an array its images.

    Raises ValueError for what is neither: a single array (H, W, 3), or a number, say.
    """
    if isinstance(images, (str, os.PathLike)):
        return [images]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim != 4:
            raise ValueError(f"images of shape {tuple(images.shape)}; give (B, H, W, 3), one image as images[None]")
        return images  # type: ignore[return-value]  # it has len() and slices, which is all that is asked of it
    if isinstance(images, Image.Image):
        return [images]
    try:
        return list(images)
    except TypeError:
        kind = type(images).__name__
        raise ValueError(f"images: {kind}; give a list of paths, Pillow images or arrays, or one array") from None


def _pixels(images: Any) -> np.ndarray:
    """Returns an array or tensor as an array on the CPU. Raises ValueError unless it is uint8."""
    array = np.asarray(images.cpu() if isinstance(images, torch.Tensor) else images)
    if array.dtype != np.uint8:
        raise ValueError(f"images are {array.dtype}; give the pixels as uint8, 0 to 255")
    return array
