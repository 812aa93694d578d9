"""The experiments with damaged files notice a loader that trusts the files."""

import pytest

from benchmarks.reliability_helpers import damage
from cil_func.runs import checkpoint_files, checkpoints, packing


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        checkpoints.save(tmp_path / "checkpoints", *damage.example(number)[:2], number=number)
    return tmp_path / "checkpoints"


def trusting(folder):
    """A loader that takes the newest checkpoint as it is. safetensors notices only a few damages."""
    manifest = max(folder.glob("*.json"))
    fields = packing.json.loads(manifest.read_bytes())
    tree = {}
    for part in packing.parts_of(fields):
        tree |= packing.tree_from_bytes((folder / checkpoint_files.part_name(part)).read_bytes())
    return packing.Loaded(tree, fields["record"], fields["number"]), []


def quiet(folder):
    """A loader that takes the checkpoint before a damaged one and reports nothing."""
    return checkpoints.newest(folder)[0], []


def test_a_loader_that_trusts_is_found_out(folder, tmp_path, monkeypatch):
    def load(folder):
        return trusting(folder) if any(folder.glob("*.json")) else (None, [])

    tally = damage.flip_bits(folder, 40, seed=0, scratch=tmp_path / "scratch", load=load)
    assert tally.tried == 40 and len(tally.failures) == 40
    assert any("not reported" in line for line in tally.failures)


def test_a_loader_that_is_quiet_is_found_out(folder, tmp_path):
    tally = damage.truncate_and_delete(folder, 20, seed=0, scratch=tmp_path / "scratch", load=quiet)
    assert any("not reported" in line for line in tally.failures)


def test_a_loader_that_loads_another_checkpoint_is_found_out(folder, tmp_path):
    def load(folder):
        found, problems = checkpoints.newest(folder)
        if problems:
            found = damage.example(7)
        return found, problems

    tally = damage.flip_bits(folder, 20, seed=0, scratch=tmp_path / "scratch", load=load)
    assert any("something else" in line for line in tally.failures)


def test_every_file_of_every_checkpoint_is_damaged_and_the_folder_is_not(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    changed = set()

    def load(copy):
        for name, data in before.items():
            if (copy / name).exists() and (copy / name).read_bytes() != data:
                changed.add(name)
                return None, []  # and so the case is missed, with its name
        return checkpoints.newest(copy)

    tally = damage.flip_bits(folder, 40, seed=0, scratch=tmp_path / "scratch", load=load)
    assert changed == set(before) and len(tally.failures) == 40
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
