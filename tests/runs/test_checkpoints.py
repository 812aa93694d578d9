"""Checkpoints survive failures of processes, disks and files. A saved model is the model."""

import contextlib
import copy
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reliability_helpers import damage, failing_saves
from cil_func import model, tree
from cil_func.errors import CheckpointError, DiskError
from cil_func.runs import checkpoint_files, checkpoints, packing
from cil_func.runs.checkpoint_writer import CheckpointWriter
from cil_func.runs.checkpoints import Loaded, SavedModel

FOLDERS = {  # what is there -> what is saved
    (): 3,
    (3,): 4,
    (3, 4): 5,
    (3, 5): 5,  # the same number again, with other contents
}


def save(folder: Path, *numbers: int) -> None:
    for number in numbers:
        loaded = damage.example(number)
        assert checkpoints.save(folder, loaded.tree, loaded.record, number=number) == []


def changed(number: int, learned: dict) -> tuple[dict, dict]:
    """Returns (tree, record) of a checkpoint in which "learned" has not changed."""
    loaded = damage.example(number)
    return {**loaded.tree, "learned": learned}, loaded.record


def by_one(saver: CheckpointWriter, learned: dict, *numbers: int) -> None:
    """Saves as a run does within a phase."""
    for number in numbers:
        tree, record = changed(number, learned)
        assert saver.write(saver.stage(tree), record, number=number) == []


def going_on(saver: CheckpointWriter):
    """Saves into a copy of the writer's folder, with what the writer remembers."""

    def save(folder, tree, record, *, number):
        own = copy.deepcopy(saver)
        own._directory = folder
        return own.write(own.stage(tree), record, number=number)

    return save


def files(folder: Path, number: int) -> list[Path]:
    """Returns the paths of the manifest and of the two parts that it names."""
    names = [checkpoint_files.part_name(part) for part in checkpoint_files.parts_of_checkpoint(folder, number)]
    return [folder / name for name in (f"{number:08d}.json", *names)]


def break_(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2] + b"??")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def numbers(folder: Path) -> list[int]:
    """Returns the numbers of the checkpoints in a folder that has nothing but their three files each."""
    found = sorted(int(path.name[:8]) for path in folder.iterdir())
    assert found[::3] == found[1::3] == found[2::3]
    return found[::3]


@pytest.fixture(params=[*FOLDERS, "shared parts", "parts shared no more"], ids=str)
def folder_and_new(request, tmp_path):
    """A folder with checkpoints, a checkpoint to save there, and the function that saves it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    if request.param in FOLDERS:
        save(folder, *request.param)
        yield folder, damage.example(99)._replace(number=FOLDERS[request.param]), checkpoints.save
        return
    saver, learned, new = CheckpointWriter(folder), damage.example(1).tree["learned"], damage.example(5)
    by_one(saver, learned, 1, 2, 3, 4)
    if request.param == "shared parts":
        new.tree["learned"] = learned
    yield folder, new, going_on(saver)


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoints.newest(folder) == (None, [])
    for number in (0, 1, 7, 123456789):  # more digits than are filled up
        save(folder, number)
        found, problems = checkpoints.newest(folder)
        assert damage.same(found, damage.example(number)) and problems == []
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == [
        "00000007", "00000007", "00000007.json", "123456789", "123456789", "123456789.json",
    ]  # fmt: skip


def test_a_number_below_0_is_refused(tmp_path):
    with pytest.raises(ValueError, match="number -1"):
        checkpoints.save(tmp_path, {}, {}, number=-1)


def test_the_same_bytes_go_to_other_processes(tmp_path):
    save(tmp_path, 1, 2)
    pieces = list(checkpoints.read_pieces(tmp_path, 2))
    assert pieces == [path.read_bytes() for path in files(tmp_path, 2)]
    assert damage.same(checkpoints.unpack(pieces), damage.example(2))
    for which in range(3):
        for harm in (lambda data: data[:-1], lambda data: data[1:], lambda data: data + b"\n"):
            wrong = [harm(piece) if which == index else piece for index, piece in enumerate(pieces)]
            with pytest.raises(CheckpointError):
                checkpoints.unpack(wrong)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["manifest", "params", "learned"])
@pytest.mark.parametrize("harm", [break_, Path.unlink, empty])
def test_a_damaged_one_is_reported_and_the_one_before_it_used(tmp_path, which, harm):
    save(tmp_path, 11, 12)
    harm(files(tmp_path, 12)[which])
    found, problems = checkpoints.newest(tmp_path)
    assert damage.same(found, damage.example(11))
    [problem] = problems
    assert problem.startswith("checkpoint 12 is skipped: ") and "\n" not in problem
    save(tmp_path, 12)  # the run goes on and comes there again
    assert damage.same(checkpoints.newest(tmp_path)[0], damage.example(12)) and numbers(tmp_path) == [11, 12]


def test_without_any_valid_one_it_says_what_is_wrong_and_what_to_do(tmp_path):
    save(tmp_path, 1, 2)
    files(tmp_path, 1)[2].unlink()
    break_(files(tmp_path, 2)[0])
    says = r"checkpoint 2 .* manifest is damaged.*checkpoint 1 .* missing.*put .* back"
    with pytest.raises(CheckpointError, match=says) as caught:
        checkpoints.newest(tmp_path)
    assert caught.value.exit_status == 5 and "\n" not in str(caught.value)


def test_a_first_save_that_was_interrupted_is_no_checkpoint(tmp_path):
    save(tmp_path, 0)
    files(tmp_path, 0)[0].unlink()
    found, [problem] = checkpoints.newest(tmp_path)
    assert found is None and "00000000.json is missing, as when the process ended" in problem


@pytest.mark.parametrize("swapped", [(0,), (2,), (0, 1, 2)], ids=["manifests", "data", "all"])
def test_swapped_files_are_noticed(tmp_path, swapped):
    save(tmp_path, 1, 2)
    pairs = list(zip(files(tmp_path, 1), files(tmp_path, 2), strict=True))
    for first, second in [pairs[which] for which in swapped]:
        first.rename(tmp_path / "x")
        second.rename(first)
        (tmp_path / "x").rename(second)
    with pytest.raises(CheckpointError, match=r"checkpoint 2 .*checkpoint 1 "):
        checkpoints.newest(tmp_path)


def test_a_checkpoint_under_the_number_of_another_is_refused(tmp_path):
    save(tmp_path, 1)
    for path in files(tmp_path, 1):
        shutil.copy(path, tmp_path / path.name.replace("00000001", "00000002"))
    found, [problem] = checkpoints.newest(tmp_path)
    assert found.number == 1 and problem.endswith("its manifest is that of checkpoint 1")


def test_saving_a_number_again_replaces_the_checkpoint(tmp_path):
    save(tmp_path, 1, 2)
    new = damage.example(3)
    assert checkpoints.save(tmp_path, new.tree, new.record, number=2) == []
    assert damage.same(checkpoints.newest(tmp_path)[0], new._replace(number=2)) and numbers(tmp_path) == [1, 2]


def test_two_valid_ones_are_kept_however_many_damaged_ones_there_are(tmp_path):
    save(tmp_path, 1, 2)
    break_(files(tmp_path, 2)[1])
    save(tmp_path, 3)
    assert numbers(tmp_path) == [1, 2, 3]
    save(tmp_path, 4)
    assert numbers(tmp_path) == [3, 4]


def test_a_delete_that_fails_is_a_warning_and_is_tried_again_later(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)

    def refuse(path, **_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    loaded = damage.example(3)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        [told] = checkpoints.save(tmp_path, loaded.tree, loaded.record, number=3)
    assert "00000001.json is old and can't be deleted (Operation not permitted)" in told
    assert numbers(tmp_path) == [1, 2, 3]  # without its manifest the first would be damaged
    assert damage.same(checkpoints.newest(tmp_path)[0], damage.example(3))
    save(tmp_path, 4)
    assert numbers(tmp_path) == [3, 4]


def test_a_checkpoint_that_cannot_be_read_is_reported(tmp_path):
    save(tmp_path, 1, 2)
    data = files(tmp_path, 2)[1]
    data.unlink()
    data.mkdir()  # root reads whatever is a file
    found, [problem] = checkpoints.newest(tmp_path)
    assert found.number == 1 and problem.endswith(f"{data.name} can't be read (Is a directory)")
    with pytest.raises(DiskError, match=r"00000001\.json.*Not a directory"):
        checkpoints.newest(tmp_path / "00000001.json")


def test_unchanged_parts_are_written_twice_and_the_two_newest_share_no_file(tmp_path):
    saver, learned = CheckpointWriter(tmp_path), damage.example(0).tree["learned"]
    by_one(saver, learned, 0, 1, 2, 3, 4, 5)
    names = [[path.name[:8] for path in files(tmp_path, number)] for number in (4, 5)]
    assert names == [["00000004", "00000004", "00000000"], ["00000005", "00000005", "00000001"]]
    assert len(list(tmp_path.iterdir())) == 6
    for number in (5, 4):
        found, _ = checkpoints.newest(tmp_path)
        assert damage.same(found, Loaded(*changed(number, learned), number))
        files(tmp_path, number)[2].unlink()


def test_a_part_that_changed_or_whose_file_is_gone_is_written_again(tmp_path):
    saver, learned = CheckpointWriter(tmp_path), damage.example(0).tree["learned"]
    by_one(saver, learned, 0, 1, 2)
    learned["rows"].add_(1)  # in place
    by_one(saver, learned, 3)
    by_one(saver, {**learned, "more": {}}, 4)  # no tensor more
    assert [files(tmp_path, number)[2].name[:8] for number in (3, 4)] == ["00000003", "00000004"]
    files(tmp_path, 3)[2].write_bytes(b"")
    by_one(saver, learned, 5)
    assert files(tmp_path, 5)[2].name[:8] == "00000005"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for number in (4, 5) for path in files(tmp_path, number)
    )


@pytest.mark.parametrize("deleted", ["folder", "files"])
@pytest.mark.parametrize("file", range(3))  # the two parts, then the manifest
def test_what_somebody_deletes_while_it_is_written_is_written_again(tmp_path, monkeypatch, file, deleted):
    folder, calls, replace = tmp_path / "checkpoints", [], os.replace
    save(folder, 1, 2)

    def meddled(source, target):
        calls.append(target)
        if len(calls) == file + 1:
            shutil.rmtree(folder)
            if deleted == "files":
                folder.mkdir()
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", meddled)
        save(folder, 3)
    assert damage.same(checkpoints.newest(folder)[0], damage.example(3)) and numbers(folder) == [3]


def test_a_folder_that_somebody_deletes_again_and_again_is_an_error(tmp_path, monkeypatch):
    folder, loaded = tmp_path / "checkpoints", damage.example(1)

    def meddled(source, target):
        shutil.rmtree(folder)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "replace", meddled)
    with pytest.raises(DiskError, match="No such file or directory; make its folder"):
        checkpoints.save(folder, loaded.tree, loaded.record, number=1)


def test_equal_tensors_that_are_others_are_not_taken_for_the_same(tmp_path):
    """Another tensor may get the address of one that is gone."""
    saver = CheckpointWriter(tmp_path)
    for number in range(4):
        by_one(saver, damage.example(0).tree["learned"], number)
    assert files(tmp_path, 3)[2].name[:8] == "00000003"


def test_a_checkpoint_that_is_known_to_be_valid_is_not_read_again(tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name))
    save(tmp_path, 1, 2)
    assert len(read) == 2  # the parts of 1, of which another saver knows nothing
    read.clear()
    saver = CheckpointWriter(tmp_path, verified=2)
    by_one(saver, {"rows": torch.ones(1)}, 3, 4, 5)
    assert read == [] and sorted(path.name for path in tmp_path.glob("*.json")) == ["00000004.json", "00000005.json"]


def test_a_verified_checkpoint_that_was_cut_since_is_not_valid(tmp_path):
    saver, learned = CheckpointWriter(tmp_path), damage.example(0).tree["learned"]
    by_one(saver, learned, 1, 2)
    os.truncate(files(tmp_path, 2)[1], 5)
    by_one(saver, learned, 3)
    assert [number for number in (1, 2, 3) if (tmp_path / f"{number:08d}.json").exists()] == [1, 2, 3]
    assert all(path.exists() for path in files(tmp_path, 1))


def test_a_tensor_that_changes_while_it_is_saved_makes_no_checkpoint(tmp_path):
    saver, learned = CheckpointWriter(tmp_path), damage.example(1).tree["learned"]
    by_one(saver, learned, 1)
    tree, record = changed(2, learned)
    staged = saver.stage(tree)
    tree["params"]["weight"][0] = 7.0
    with pytest.raises(RuntimeError, match=r"params\.weight was changed in place"):
        saver.write(staged, record, number=2)
    assert numbers(tmp_path) == [1]


def test_nothing_is_copied_on_the_cpu_and_nothing_is_kept_alive(tmp_path):
    saver, weight = CheckpointWriter(tmp_path), torch.arange(6.0)
    tree = {"params": {"weight": weight}}
    [staged] = saver.stage(tree)
    _, data = packing.chunks(staged.tree)
    assert np.shares_memory(data, weight.numpy())
    saver.write([staged], {}, number=0)
    gone = weakref.ref(weight)
    del tree, weight, staged, data
    assert gone() is None


def test_a_folder_of_an_earlier_format_is_refused_in_one_line(tmp_path):
    body = json.dumps({"format": 1, "number": 3, "record": {}, "sha256": "", "size": 0}).encode()[:-1]
    manifest = body + b', "self": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    (tmp_path / "00000003.json").write_bytes(manifest)
    with pytest.raises(CheckpointError, match=r"format is 1, and this version reads 2; use the version") as caught:
        checkpoints.newest(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 5


def test_a_crash_at_any_call_leaves_a_valid_checkpoint(folder_and_new, tmp_path):
    folder, new, save = folder_and_new
    tally = failing_saves.crash_at_every_call(folder, new, scratch=tmp_path / "scratch", save=save)
    assert tally.failures == [] and tally.tried > 100


@pytest.mark.parametrize(
    ("error", "lasting"),
    [(OSError(errno.EROFS, "Read-only file system"), False), (OSError(errno.EIO, "I/O error"), True),
     (KeyboardInterrupt(), False)],
    ids=repr,
)  # fmt: skip
def test_a_failure_of_any_call_is_raised_and_leaves_the_folder_as_it_was(folder_and_new, tmp_path, error, lasting):
    folder, new, save = folder_and_new
    scratch = tmp_path / "scratch"
    tally = failing_saves.fail_at_every_call(folder, new, error, lasting=lasting, scratch=scratch, save=save)
    assert tally.failures == [] and tally.tried > 40


def test_a_full_disk_leaves_the_folder_as_it_was(folder_and_new, tmp_path):
    folder, new, save = folder_and_new
    assert failing_saves.disk_full(folder, new, 10, scratch=tmp_path / "scratch", save=save) == (10, [])


def mount(folder: Path, *options: str) -> None:
    """Mounts a file system of 256 KiB in memory at a path."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=256k", *options)), "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here, which root may: {getattr(error, 'stderr', error)}")


@pytest.fixture
def small_disk(tmp_path):
    """A real, small file system, with two checkpoints in its folder `checkpoints`."""
    mount(tmp_path / "disk")
    try:
        save(tmp_path / "disk/checkpoints", 1, 2)
        yield tmp_path / "disk/checkpoints"
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_disk_that_is_really_full_leaves_the_folder_as_it_was(small_disk):
    new = damage.example(3, size=1000)
    assert failing_saves.disk_really_full(small_disk, new, 10) == (10, [])
    save(small_disk, 3)
    assert numbers(small_disk) == [2, 3]


def test_a_disk_that_is_really_read_only_has_its_checkpoints_and_exit_74(small_disk):
    mount(small_disk.parent, "remount", "ro")
    loaded = damage.example(3)
    with pytest.raises(DiskError, match="Read-only file system; mount it for writing") as caught:
        checkpoints.save(small_disk, loaded.tree, loaded.record, number=3)
    assert caught.value.exit_status == 74
    assert damage.same(checkpoints.newest(small_disk)[0], damage.example(2)) and numbers(small_disk) == [1, 2]


@contextlib.contextmanager
def largest_file(size: int):
    """Returns a context manager in which the system refuses files of more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_limit_of_the_size_of_files_is_a_disk_that_is_full(tmp_path, size):
    save(tmp_path, 1)
    loaded = damage.example(2)
    with largest_file(size), pytest.raises(DiskError, match=r"File too large; raise .*ulimit -f"):
        checkpoints.save(tmp_path, loaded.tree, loaded.record, number=2)
    assert damage.same(checkpoints.newest(tmp_path)[0], damage.example(1)) and numbers(tmp_path) == [1]


def test_a_folder_that_cannot_be_made_is_exit_74(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DiskError, match="Not a directory") as caught:
        checkpoints.save(tmp_path / "run/checkpoints", {}, {}, number=0)
    assert caught.value.exit_status == 74


@pytest.mark.parametrize("harm", [damage.flip_bits, damage.truncate_and_delete])
@pytest.mark.parametrize("shared", [False, True])
def test_damage_anywhere_is_reported_and_never_loaded(tmp_path, harm, shared):
    if shared:
        by_one(CheckpointWriter(tmp_path / "checkpoints"), damage.example(1).tree["learned"], 1, 2, 3, 4)
    else:
        save(tmp_path / "checkpoints", 1, 2)
    assert harm(tmp_path / "checkpoints", 200, seed=0, scratch=tmp_path / "scratch") == (200, [])


def test_cleaning_deletes_temporary_files_of_killed_processes_only(tmp_path):
    save(tmp_path / "checkpoints", 1)
    kept = [".lock", "metrics.jsonl", ".hidden.tmp", "notes.12.tmp", "report/.keep", "deeper/.x.json.1.tmp"]
    left = [".results.json.123.tmp", "checkpoints/.00000002.json.9.tmp", "report/.loss.png.77.tmp"]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    checkpoints.clean(tmp_path)
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert numbers(tmp_path / "checkpoints") == [1]
    checkpoints.clean(tmp_path / "nowhere")


def test_a_model_comes_back_bit_for_bit(tmp_path):
    params, state = model.init(0, "resnet110", 3)  # more than ten blocks a stage: the file sorts its names
    means = torch.randn(3, 64, dtype=torch.float64)
    checkpoints.save_model(tmp_path, SavedModel(params, state, means, {"classes": ["a", "b", "ü"]}, {"seen": means}))
    loaded_params, loaded_state, loaded_means, description, extra = checkpoints.load_model(tmp_path)
    assert torch.equal(extra["seen"], means)
    assert description["classes"] == ["a", "b", "ü"]
    assert loaded_means.dtype == torch.float64 and torch.equal(loaded_means, means)
    for ours, theirs in ((params, loaded_params), (state, loaded_state)):
        expected, found = tree.to_paths(ours), tree.to_paths(theirs)
        assert list(expected) == list(found)
        assert all(torch.equal(leaf, found[path]) for path, leaf in expected.items())
    images = torch.randn(2, 3, 8, 8)
    logits = model.apply(params, state, images, train=False)[0]
    assert torch.equal(logits, model.apply(loaded_params, loaded_state, images, train=False)[0])


def test_views_are_saved_by_their_values(tmp_path):
    """A classifier that is cut from its full width shares memory with it, which safetensors refuses."""
    params, state = model.init(0, "resnet20", 5)
    head = {name: leaf[:2] for name, leaf in params["classifier"].items()}
    checkpoints.save_model(tmp_path, SavedModel({**params, "classifier": head}, state, None, {}))
    assert checkpoints.load_model(tmp_path)[0]["classifier"]["weight"].shape == (2, 64)


def test_a_model_without_running_statistics_keeps_its_empty_state(tmp_path):
    state = {"backbone": {"timm:vit": {}}}  # `model.apply` looks the name up in it
    checkpoints.save_model(tmp_path, SavedModel({"weight": torch.ones(1)}, state, None, {}))
    loaded = checkpoints.load_model(tmp_path)
    assert (loaded.state, loaded.means) == (state, None)


def saved_model(folder: Path, seed: int) -> None:
    folder.mkdir()
    weight = torch.randn(9, generator=torch.Generator().manual_seed(seed))
    checkpoints.save_model(folder, SavedModel({"weight": weight}, {}, None, {"classes": ["a"]}))


def test_a_flipped_bit_in_a_model_shows(tmp_path):
    saved_model(tmp_path / "model", 0)
    path, draw = tmp_path / "model/model.safetensors", random.Random(0)
    whole = path.read_bytes()
    for _ in range(50):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged, or of another model") as caught:
            checkpoints.load_model(path.parent)
        assert "\n" not in str(caught.value)


def test_files_of_two_models_are_no_model(tmp_path):
    """That happens if a process ends between writing the two files."""
    saved_model(tmp_path / "old", 0)
    saved_model(tmp_path / "new", 1)
    shutil.copy(tmp_path / "new/model.safetensors", tmp_path / "old/model.safetensors")
    with pytest.raises(CheckpointError, match="of another model"):
        checkpoints.load_model(tmp_path / "old")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("model.json", None, "model.json is missing"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("model.json", "{", "model.json is damaged"),
        ("model.json", "[]", "model.json is damaged"),
        ("model.json", '{"format": 4}', "model.json is damaged.*sha256"),
        ("model.json", '{"format": 2, "sha256": ""}', "format is 2, and this version reads 4"),
    ],
)
def test_an_incomplete_or_damaged_model_is_refused(tmp_path, name, text, says):
    saved_model(tmp_path / "model", 0)
    if text is None:
        (tmp_path / "model" / name).unlink()
    else:
        (tmp_path / "model" / name).write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        checkpoints.load_model(tmp_path / "model")
    assert caught.value.exit_status == 5 and "\n" not in str(caught.value)


def test_a_model_names_the_hash_of_its_tensors(tmp_path):
    saved_model(tmp_path / "model", 0)
    data = (tmp_path / "model/model.safetensors").read_bytes()
    assert json.loads((tmp_path / "model/model.json").read_text())["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_model_is_written_atomically(tmp_path, monkeypatch):
    saved_model(tmp_path / "model", 0)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskError, match=r"model\.safetensors: No space"):
        checkpoints.save_model(tmp_path / "model", SavedModel({"weight": torch.ones(3)}, {}, None, {}))
    assert checkpoints.load_model(tmp_path / "model")[0]["weight"].shape == (9,)
