"""Writes checkpoints: the parts of the state that have changed, and then the manifest.

No file is ever written over another one. So a process may die, or the power fail, at any moment: the earlier
checkpoint stays valid, and the new one is either valid or recognised as damaged.

A part that has not changed is not written again: the new manifest names the old file. The old file must come from the
checkpoint before the last one, which is about to be deleted. So the two newest checkpoints never share a file, and one
damaged file never costs both.
"""

import contextlib
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cil_func import tree as trees
from cil_func.errors import DiskError
from cil_func.runs import checkpoint_files, files, packing
from cil_func.runs.packing import Part

_TRIES = 3  # of writing one checkpoint, if somebody deletes its folder or the files in it meanwhile


class PartIdentity(NamedTuple):
    """What shows later whether a part of a tree is still the same: the same tensors at the same paths, unchanged.

    paths: those of `packing.paths`: of all leaves and empty dicts, in order.
    leaves: a weak reference to each tensor, so that none is kept in memory.
    versions: of each tensor, the number of changes in place so far (`Tensor._version`).
    """

    paths: list[str]
    leaves: list[weakref.ref]
    versions: list[int]


class Staged(NamedTuple):
    """One key of a tree and what lies under it, ready to be written as a part.

    identity: what shows later whether the part has changed.
    tree: {key: what lies under it}, on the CPU; None if `part` is given.
    part: the part of an earlier checkpoint that has the same content and is named again; None if `tree` has to be
    written.
    """

    identity: PartIdentity
    tree: trees.Tree | None
    part: Part | None = None


class CheckpointWriter:
    """Writes the checkpoints of one folder, one after the other.

    Call `stage` in the training loop, and `write` there or in another thread.

    directory: the run's checkpoints/, made if it is missing. verified: the number of a checkpoint there that this
    process has read and found valid; None if there is none.

    Before it deletes older checkpoints, it reads and checks the one that is to stay beside the new one. It doesn't read
    `verified` again, nor a checkpoint that it has written itself.
    """

    def __init__(self, directory: Path, *, verified: int | None = None):
        self._directory = directory
        self._verified = set() if verified is None else {verified}
        self._saved: list[list[tuple[PartIdentity, Part]]] = []  # the parts of the last two checkpoints

    def stage(self, tree: trees.Tree) -> list[Staged]:
        """Copies to the CPU what has to be written of a tree. Returns one `Staged` for each of its keys, for `write`.

        tree: nested dicts of tensors on any devices. Tensors that are on the CPU already are not copied: they must not
        be changed in place before they are written.
        """
        staged = []
        for key, branch in tree.items():
            branch = {key: branch}
            identity = _identify(branch)
            part = self._written_before(identity)
            host = None if part else trees.map(lambda leaf: leaf.to("cpu") if _is_tensor(leaf) else leaf, branch)
            staged.append(Staged(identity, host, part))
        return staged

    def write(self, staged: list[Staged], record: dict[str, Any], *, number: int) -> list[str]:
        """Writes checkpoint `number`, then deletes all but it and the newest valid checkpoint before it.

        staged: from `stage`. record: JSON-able values that are stored in the manifest. number: 0 or more; the highest
        number is the newest checkpoint.
        Returns warnings about old files that can't be deleted, one line each.
        Raises DiskError if the checkpoint can't be written; then the earlier checkpoints are as they were. Raises
        RuntimeError if a tensor was changed in place since it was staged. Raises ValueError for a record that JSON
        can't hold and for a key with a dot, TypeError for a leaf that is no tensor of a common dtype.
        """
        parts = [piece.part or packing.describe_part(piece.tree, number=number) for piece in staged]
        manifest = packing.pack_manifest(parts, record, number=number)
        named = zip(map(checkpoint_files.part_name, parts), staged, strict=True)
        new = {name: piece for name, piece in named if not piece.part}
        try:
            for tries_left in reversed(range(_TRIES)):
                try:
                    self._write_files(new, manifest, number)
                    break
                except DiskError as error:
                    if not (tries_left and isinstance(error.__cause__, FileNotFoundError)):
                        raise
        except BaseException:
            with contextlib.suppress(OSError):  # the disk may be full
                for name in new.keys() - self._part_names([number]):
                    self._delete(name)
            raise
        self._verified.add(number)
        self._saved = [*self._saved[-1:], [(piece.identity, part) for piece, part in zip(staged, parts, strict=True)]]
        return self._delete_old(number)

    def _write_files(self, new: dict[str, Staged], manifest: bytes, number: int) -> None:
        """Writes the parts `new`, by file name, and then the manifest. Makes the folder if it is missing."""
        files.make_directory(self._directory)
        for name, piece in new.items():
            files.write_chunks(self._directory / name, packing.chunks(piece.tree))
        _refuse_changed(new.values())
        files.write_bytes(self._directory / checkpoint_files.manifest_name(number), manifest)

    def _written_before(self, identity: PartIdentity) -> Part | None:
        """Returns the part with this identity that the checkpoint before the last one has written, or None.

        None: the part has changed, its file isn't there with its size, or fewer than two checkpoints were written.
        """
        for earlier, part in self._saved[0] if len(self._saved) == 2 else ():
            same = (earlier.paths, earlier.versions) == (identity.paths, identity.versions)
            if same and all(one() is other() for one, other in zip(earlier.leaves, identity.leaves, strict=True)):
                return part if checkpoint_files.has_written_size(self._directory, part) else None
        return None

    def _delete_old(self, number: int) -> list[str]:
        """Deletes the checkpoints older than the newest valid one before checkpoint `number`, which was just written.

        Parts that a remaining manifest names are kept. So are damaged checkpoints between those two. Parts of
        checkpoint `number` that its manifest doesn't name, from an interrupted save, are deleted.
        Returns warnings about files that can't be deleted, one line each.
        """
        try:
            names = checkpoint_files.list_names(self._directory)
            before = sorted((other for other in names if other < number), reverse=True)
            earlier = next((other for other in before if self._is_valid(other)), 0)
            self._verified &= {earlier, number}
            old = [checkpoint_files.manifest_name(other) for other in before if other < earlier]
            # Manifests first: parts without a manifest do no harm, a manifest without its parts is a broken checkpoint.
            problems = [problem for problem in map(self._delete, old) if problem]
            needed = self._part_names(names)
        except OSError as error:
            return [f"{self._directory}: can't be searched for old checkpoints ({error.strerror})"]
        manifests = {checkpoint_files.manifest_name(other) for other in names}
        old = [name for other in names if other < earlier or other == number for name in names[other]]
        return problems + [problem for problem in map(self._delete, {*old} - needed - manifests) if problem]

    def _part_names(self, numbers: Iterable[int]) -> set[str]:
        """Returns the names of the files of all parts that the manifests of these checkpoints name. Raises OSError."""
        parts = (checkpoint_files.parts_of_checkpoint(self._directory, number) for number in numbers)
        return {checkpoint_files.part_name(part) for of_one in parts for part in of_one}

    def _is_valid(self, number: int) -> bool:
        return checkpoint_files.is_valid(self._directory, number, hashed=number not in self._verified)

    def _delete(self, name: str) -> str:
        """Deletes a file. Returns "", or a warning if it can't be deleted."""
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            return f"{self._directory / name} is old and can't be deleted ({error.strerror})"
        return ""


def _identify(branch: trees.Tree) -> PartIdentity:
    leaves = [leaf for leaf in trees.to_paths(branch).values() if _is_tensor(leaf)]
    references = [weakref.ref(leaf) for leaf in leaves]
    return PartIdentity(packing.paths(branch), references, [leaf._version for leaf in leaves])


def _refuse_changed(pieces: Iterable[Staged]) -> None:
    """Raises RuntimeError if a tensor that `stage` didn't have to copy was changed in place since then."""
    for identity, host, _ in pieces:
        kept = trees.to_paths(host)
        for (path, leaf), ref, version in zip(kept.items(), identity.leaves, identity.versions, strict=True):
            if leaf is ref() and leaf._version != version:
                raise RuntimeError(f"{path} was changed in place while it was saved; give a new tensor instead")


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)
