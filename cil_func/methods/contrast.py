"""InfoNCE: tells an image's other view from all other images of a batch."""

import torch
import torch.nn.functional as F

from cil_func import losses


def info_nce(
    first: torch.Tensor, second: torch.Tensor, *, temperature: float, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the mean over the batch of -log(exp(c_ij / T) / sum over k != i of exp(c_ik / T)), j the other view of i.

    first, second: (B, D); two views of an image stand side by side, so row 0 has row 1 and row 2 has row 3. c_ik: the
    cosine of row i of `first` and row k of `second`. temperature: T, above 0.
    rows: (B,) bool, the images that take part, as i and as k; both views or none; None: all.
    Returns a 0-d tensor, 0 if no image takes part; float32 for float16 and bfloat16.
    Raises ValueError for shapes that aren't (B, D) both, B even.
    Source: Chen et al. 2020 (arXiv:2002.05709), equation 1, where both are the same.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) % 2:
        raise ValueError(f"info_nce: {tuple(first.shape)} and {tuple(second.shape)} are not (B, D) both, B even")
    units = [F.normalize(losses.taking_part(views, rows), dim=1) for views in (first, second)]
    cosines = units[0] @ units[1].T  # (B, B)
    places = torch.arange(len(first), device=first.device)
    own = places[:, None] == places
    return losses.cross_entropy((cosines / temperature).masked_fill(own, -1e9), places ^ 1, mask=rows, rows=rows)
