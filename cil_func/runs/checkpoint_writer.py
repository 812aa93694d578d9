"""Checkpoints are written here: what changed since the save before the last one, and then the manifest.

Data are never written over other data, so that a process may die, or the power fail, at any moment: the earlier
checkpoint is whole, and the new one is whole, or damaged and known to be.

A part that didn't change is named again and not written again. It is taken from the checkpoint before the last one,
which is about to be deleted: so the two newest ones never share a file, and no damaged file costs both.
"""

import contextlib
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cil_func import tree as trees
from cil_func.runs import checkpoint_files, files, packing
from cil_func.runs.packing import Part


class Mark(NamedTuple):
    """By what a part is known again: the same tensors in the same places, unchanged. It keeps none of them alive."""

    paths: list[str]
    leaves: list[weakref.ref]
    versions: list[int]  # torch counts the changes in place


class Staged(NamedTuple):
    """One key of a tree, ready to be written: tree: on the CPU; or part: what an earlier checkpoint wrote of it."""

    mark: Mark
    tree: trees.Tree | None
    part: Part | None = None


class Saver:
    """Writes the checkpoints of one folder, one at a time: `stage` in the training loop, `write` anywhere.

    directory: the run's checkpoints/, made if missing; verified: the number of a checkpoint there whose bytes this
    process has read and found whole. Those that it writes itself are not read again either.
    """

    def __init__(self, directory: Path, *, verified: int | None = None):
        self._directory = directory
        self._verified = set() if verified is None else {verified}
        self._saved: list[list[tuple[Mark, Part]]] = []  # the parts of the last two

    def stage(self, tree: trees.Tree) -> list[Staged]:
        """Copies to the CPU what has to be written of a tree: nested dicts of tensors on any devices.

        Tensors on the CPU are not copied, and may not be changed in place before they are written.
        """
        staged = []
        for key, branch in tree.items():
            branch = {key: branch}
            mark = _mark(branch)
            part = self._unchanged(mark)
            host = None if part else trees.map(lambda leaf: leaf.to("cpu") if _is_tensor(leaf) else leaf, branch)
            staged.append(Staged(mark, host, part))
        return staged

    def write(self, staged: list[Staged], record: dict[str, Any], *, number: int) -> list[str]:
        """Writes checkpoint `number` and deletes what is older than the two newest valid ones.

        Returns and raises what `checkpoint.save` does; RuntimeError for tensors that were changed meanwhile.
        """
        parts = [piece.part or packing.describe(piece.tree, number=number) for piece in staged]
        manifest = packing.pack(parts, record, number=number)
        named = zip(map(checkpoint_files.part_name, parts), staged, strict=True)
        new = {name: piece for name, piece in named if not piece.part}
        files.make_directory(self._directory)
        try:
            for name, piece in new.items():
                files.write_chunks(self._directory / name, packing.chunks(piece.tree))
            _refuse_changed(new.values())
            files.write_bytes(self._directory / checkpoint_files.manifest_name(number), manifest)
        except BaseException:
            with contextlib.suppress(OSError):  # the disk may be full
                needed = set(map(checkpoint_files.part_name, checkpoint_files.parts(self._directory, number)))
                for name in new.keys() - needed:
                    self._delete(name)
            raise
        self._verified.add(number)
        self._saved = [*self._saved[-1:], [(piece.mark, part) for piece, part in zip(staged, parts, strict=True)]]
        return self._delete_old(number)

    def _unchanged(self, mark: Mark) -> Part | None:
        """The part of the save before the last one that holds the same, if its file is still there."""
        for earlier, part in self._saved[0] if len(self._saved) == 2 else ():
            same = (earlier.paths, earlier.versions) == (mark.paths, mark.versions)
            if same and all(one() is other() for one, other in zip(earlier.leaves, mark.leaves, strict=True)):
                return part if checkpoint_files.there(self._directory, part) else None
        return None

    def _delete_old(self, number: int) -> list[str]:
        """Deletes what is superfluous now that `number` is written: all but it and the newest valid one before it."""
        try:
            names = checkpoint_files.found(self._directory)
            before = sorted((other for other in names if other < number), reverse=True)
            earlier = next((other for other in before if self._whole(other)), 0)
            self._verified &= {earlier, number}
            old = [checkpoint_files.manifest_name(other) for other in before if other < earlier]
            problems = [problem for problem in map(self._delete, old) if problem]  # data without them are no danger
            needed = {
                checkpoint_files.part_name(part)
                for other in names
                for part in checkpoint_files.parts(self._directory, other)
            }
        except OSError as error:
            return [f"{self._directory}: can't be searched for old checkpoints ({error.strerror})"]
        manifests = {checkpoint_files.manifest_name(other) for other in names}
        old = [name for other in names if other < earlier or other == number for name in names[other]]
        return problems + [problem for problem in map(self._delete, {*old} - needed - manifests) if problem]

    def _whole(self, number: int) -> bool:
        return checkpoint_files.whole(self._directory, number, hashed=number not in self._verified)

    def _delete(self, name: str) -> str:
        """Deletes a file; what is wrong where that fails."""
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            return f"{self._directory / name} is old and can't be deleted ({error.strerror})"
        return ""


def _mark(branch: trees.Tree) -> Mark:
    leaves = [leaf for leaf in trees.to_paths(branch).values() if _is_tensor(leaf)]
    return Mark(packing.paths(branch), [weakref.ref(leaf) for leaf in leaves], [leaf._version for leaf in leaves])


def _refuse_changed(pieces) -> None:
    """Raises RuntimeError where a tensor on the CPU was changed in place since it was staged."""
    for mark, host, _ in pieces:
        kept = trees.to_paths(host).values()
        for path, leaf, ref, version in zip(trees.to_paths(host), kept, mark.leaves, mark.versions, strict=True):
            if leaf is ref() and leaf._version != version:
                raise RuntimeError(f"{path} was changed in place while it was saved; give a new tensor instead")


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)
