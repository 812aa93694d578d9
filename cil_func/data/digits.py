"""The digits of scikit-learn, which this package contains."""

from pathlib import Path

import numpy as np
from einops import repeat


def read() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns (train images, train targets, test images, test targets, class names) of 1,797 digits of 8x8 pixels.

    Images are uint8 (N, 8, 8, 3), targets int64 (N,); a stratified fifth is for testing.
    digits.npz has their pixels, 0..16, and targets. tests/data/test_sources.py makes the same with scikit-learn's own
    functions; to import those here would take seconds.
    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), licence CC BY 4.0.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        levels, targets = ([file[f"{part}_{name}"] for part in ("train", "test")] for name in ("levels", "targets"))
    train, test = (repeat(np.rint(part * (255 / 16)).astype(np.uint8), "n h w -> n h w c", c=3) for part in levels)
    train_targets, test_targets = (part.astype(np.int64) for part in targets)
    return train, train_targets, test, test_targets, tuple("0123456789")
