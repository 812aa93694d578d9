"""Hashes a tree, so that processes can compare theirs."""

import hashlib

import torch

from cil_func import tree


def digest(part: object) -> bytes:
    """Returns a SHA-256, 32 bytes, of a tree: of its tensors with their shapes and dtypes, and of other leaves as text.

    part: a tree (see `tree`), its tensors on any device; anything else counts as a single leaf.
    """
    found = hashlib.sha256()
    for leaf in tree.leaves(part):
        if not isinstance(leaf, torch.Tensor):
            found.update(repr(leaf).encode())
            continue
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()
