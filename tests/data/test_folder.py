"""Folders of image files: what is read, and each mistake with the line it gets."""

import os

import numpy as np
import pytest
import watchdog
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks import bad_folders, bad_images, mistakes
from cil_func.data import folder, sources
from cil_func.errors import DataError

RNG = np.random.RandomState(0)


def pixels(height=8, width=8):
    return RNG.randint(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes, three training images and one test image each, 8x8."""
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "ant"):
            for index in range(count):
                save(tmp_path / split / name / f"{index}.png", pixels())
    return tmp_path


def refused(root, **settings):
    """The one line with which a folder is refused."""
    with pytest.raises(DataError) as caught:
        sources.load("image_folder", path=str(root), **settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_reads_every_image_in_alphabetical_order_bit_for_bit(root):
    data = sources.load("image_folder", path=str(root))
    assert data.class_names == ("ant", "cat")
    assert data.train_targets.tolist() == [0, 0, 0, 1, 1, 1] and data.test_targets.tolist() == [0, 1]
    assert data.train_targets.dtype == np.int64 and data.train_images.dtype == np.uint8
    for row, file in enumerate(sorted((root / "train").rglob("*.png"))):
        assert np.array_equal(data.train_images[row], np.asarray(Image.open(file)))
    for row, file in enumerate(sorted((root / "test").rglob("*.png"))):
        assert np.array_equal(data.test_images[row], np.asarray(Image.open(file)))


def test_val_stands_in_where_there_is_no_test_and_test_comes_first(root):
    save(root / "val" / "other" / "0.png", pixels())  # would be refused if it were read
    assert len(sources.load("image_folder", path=str(root)).test_images) == 2
    (root / "val" / "other" / "0.png").unlink()
    (root / "val" / "other").rmdir()
    (root / "val").rmdir()
    (root / "test").rename(root / "val")
    assert len(sources.load("image_folder", path=str(root)).test_images) == 2


def test_dot_names_and_other_files_are_ignored_and_extensions_have_no_case(root):
    (root / "train" / ".cache").mkdir()
    (root / "train" / "ant" / "._0.png").write_bytes(b"resource fork")
    (root / "train" / "ant" / ".thumbs").mkdir()
    (root / "train" / "ant" / ".thumbs" / "0.png").write_bytes(b"no image")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / "list.csv").write_text("no folder")
    (root / "train" / "ant" / "2.png").rename(root / "train" / "ant" / "2.PNG")
    assert sources.load("image_folder", path=str(root)).train_targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_missing_path_is_named(tmp_path):
    assert "data.path is empty" in refused("")
    assert f"{tmp_path / 'nowhere'} doesn't exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "file is a file" in refused(tmp_path / "file")


def test_missing_folders_are_named_with_what_is_there(root):
    (root / "test").rename(root / "exam")
    message = refused(root)
    assert "no test/ or val/ folder" in message and "exam, train" in message
    (root / "train").rename(root / "training")
    assert "no train/ folder" in refused(root)


def test_classes_that_do_not_fit_are_named(root):
    (root / "train" / "bee").mkdir()
    message = refused(root)  # only in train
    assert "'bee'" in message and f"is in {root / 'train'} but not in {root / 'test'}" in message
    (root / "test" / "bee").mkdir()
    assert str(root / "train" / "bee") in refused(root)  # empty
    save(root / "train" / "bee" / "0.png", pixels())
    assert str(root / "test" / "bee") in refused(root)  # empty in test alone
    (root / "train" / "bee" / "0.png").unlink()
    (root / "train" / "bee").rmdir()
    assert f"is in {root / 'test'} but not in {root / 'train'}" in refused(root)


def test_a_single_class_and_no_class_are_refused(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "ant" / "0.png", pixels())
    assert "single class, 'ant'" in refused(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "ant" / "0.png").unlink()
        (tmp_path / split / "ant").rmdir()
    assert "no class folders" in refused(tmp_path)


def test_two_sizes_are_named_unless_a_size_is_set(root):
    odd = root / "test" / "cat" / "0.png"
    save(odd, pixels(height=6, width=10))
    message = refused(root)
    assert f"{root / 'train' / 'ant' / '0.png'} is 8x8" in message
    assert f"{odd} is 10x6" in message and "set data.image_size" in message
    data = sources.load("image_folder", path=str(root), image_size=8)
    assert data.test_images.shape == (2, 8, 8, 3)
    untouched = np.asarray(Image.open(root / "train" / "ant" / "0.png"))
    assert np.array_equal(data.train_images[0], untouched)


# --- Which files, and in which order


def test_nested_folders_are_read_in_torchvisions_order(root):
    for name in ("cat/b/0.png", "cat/b.c/0.png", "cat/b/a/0.png", "ant/é.png", "ant/Z.PNG", "cat/9.png"):
        save(root / "train" / name, pixels())
    os.symlink(root / "train" / "ant", root / "train" / "cat" / "linked")  # another class's images, if one wishes
    expected = ImageFolder(root / "train")
    data = sources.load("image_folder", path=str(root))
    assert data.train_targets.tolist() == expected.targets and len(expected) == 17
    assert np.array_equal(data.train_images, np.stack([np.asarray(image) for image, _ in expected]))


def test_a_link_back_is_refused_not_followed_40_times(root):
    os.symlink("..", root / "train" / "cat" / "back")
    assert f"{root / 'train' / 'cat' / 'back'}: it is a link to a folder that holds it" in refused(root)
    (root / "train" / "cat" / "back").unlink()
    os.symlink(".", root / "train" / "cat" / "same")
    assert "train/cat/same: it is a link" in refused(root)


def test_other_alphabets_and_long_paths_are_read(tmp_path):
    for split in ("train", "test"):
        for name in ("Bär", "猫 🐈"):
            save(tmp_path / split / name / ("ü" * 125 + ".png"), pixels())  # 254 bytes, of 255
            save(tmp_path / split / name / "/".join(["d" * 250] * 14) / "0.png", pixels())  # about 3,600, of 4,096
    data = sources.load("image_folder", path=str(tmp_path))
    assert data.class_names == ("Bär", "猫 🐈") and data.train_targets.tolist() == [0, 0, 1, 1]


def test_names_that_are_no_utf_8_are_read_and_become_text(tmp_path):
    for split in ("train", "test"):
        for name in (b"caf\xe9", "café".encode()):
            (tmp_path / split / os.fsdecode(name)).mkdir(parents=True)
            save(tmp_path / split / os.fsdecode(name) / os.fsdecode(b"\xff.png"), pixels())
    data = sources.load("image_folder", path=str(tmp_path))
    assert sorted(data.class_names) == ["caf\\xe9", "café"]
    assert "".join(data.class_names).encode()  # as JSON needs it


# --- Bad folders

BAD = bad_folders.folders(100)


@pytest.mark.parametrize("number", range(0, 100, 10))
def test_bad_folders_are_refused_with_one_line_that_names_the_fault(number, tmp_path, capfd):
    with watchdog.pipes_let_go(tmp_path):
        for case in BAD[number : number + 10]:
            assert answer(case, tmp_path / str(BAD.index(case))) == "", case.what
    assert capfd.readouterr() == ("", "")


def answer(case, root):
    """What is wrong with what loading a bad folder says; the configuration's values are passed by hand."""
    path = case.make(root)
    given = dict(override.removeprefix("data.").split("=") for override in case.overrides)
    given["image_size"] = int(given.get("image_size", 0))
    try:
        sources.load(given.pop("name", "image_folder"), path=path, **given)
    except DataError as refusal:
        return mistakes.fault(3, f"train.py: {refusal}\n", expected=3, says=case.says)
    return "taken"


def test_the_hundred_hold_every_damage_place_and_mistake():
    assert len(BAD) == 100
    said = [case.what.split(", ") for case in BAD]
    for names in (bad_images.DAMAGES, bad_folders.PLACES):
        assert {word for words in said for word in words} >= set(names)
    assert {case.what for case in BAD} >= set(bad_folders.AROUND)
    assert [case.what for case in BAD] == [case.what for case in bad_folders.folders(100)]
    assert [case.what for case in BAD] != [case.what for case in bad_folders.folders(100, seed=1)]


def test_what_they_are_made_of_is_good(tmp_path):
    """Else each might be refused for another reason."""
    assert len(sources.load("image_folder", path=bad_folders.good(tmp_path / "x")).train_images) == 6


def test_a_folder_that_may_not_be_listed(root, monkeypatch):
    """The tests may run as root, who may list everything."""
    real_listdir, real_scandir = os.listdir, os.scandir

    def forbidding(real, name):
        def listed(path):
            if os.fspath(path).endswith(name):
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        return listed

    monkeypatch.setattr(os, "listdir", forbidding(real_listdir, "test"))
    assert f"{root / 'test'} can't be listed (Permission denied)" in refused(root)
    monkeypatch.setattr(os, "listdir", real_listdir)
    save(root / "train" / "cat" / "more" / "0.png", pixels())
    monkeypatch.setattr(os, "scandir", forbidding(real_scandir, "more"))
    assert "train/cat/more: Permission denied" in refused(root)
    data = sources.load("image_folder", path=str(root), on_error="skip")
    assert data.skipped == ("train/cat/more: Permission denied",) and len(data.train_images) == 6


def test_an_image_that_disappears_while_the_rest_is_read(root, monkeypatch):
    listed = folder._list_images

    def lose_one(own, *arguments):
        files = listed(own, *arguments)
        if own.endswith("train"):
            os.unlink(files[0][0])
        return files

    monkeypatch.setattr(folder, "_list_images", lose_one)
    assert "train/ant/0.png: the file has disappeared" in refused(root)
    data = sources.load("image_folder", path=str(root), on_error="skip")  # and the next one goes
    assert data.skipped == ("train/ant/1.png: the file has disappeared",)
    assert data.train_targets.tolist() == [0, 1, 1, 1]


def test_too_little_memory_is_one_line(root, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(folder.decoding, "read_all", fail)
    assert "need more memory than there is; set a smaller data.image_size" in refused(root)


# --- Skipped


def test_skipped_images_are_left_out_and_listed_with_their_reasons(root):
    whole = sources.load("image_folder", path=str(root))
    for name in ("train/ant/1.png", "train/cat/0.png"):
        (root / name).write_bytes(b"")
    save(root / "test" / "cat" / "1.png", pixels())
    (root / "test" / "cat" / "1.png").write_bytes((root / "test" / "cat" / "1.png").read_bytes()[:50])
    (root / "test" / "ant" / os.fsdecode(b"\xff\n.png")).mkdir()
    data = sources.load("image_folder", path=str(root) + "/", on_error="skip")
    assert data.skipped[:3] == (
        "test/ant/\\udcff\\n.png: it is a folder, not a file",
        "train/ant/1.png: the file is empty",
        "train/cat/0.png: the file is empty",
    )
    assert data.skipped[3].startswith("test/cat/1.png: damaged (") and len(data.skipped) == 4
    assert data.train_targets.tolist() == [0, 0, 1, 1] and data.test_targets.tolist() == [0, 1]
    assert np.array_equal(data.train_images, whole.train_images[[0, 2, 4, 5]])
    assert np.array_equal(data.test_images, whole.test_images)


def test_nothing_is_skipped_where_all_is_well(root):
    stop, skip = (sources.load("image_folder", path=str(root), on_error=word) for word in ("stop", "skip"))
    assert stop.skipped == skip.skipped == ()
    assert np.array_equal(stop.train_images, skip.train_images)


def test_two_sizes_are_no_reason_to_skip(root):
    save(root / "train" / "cat" / "1.png", pixels(9, 9))
    assert "images differ in size" in refused(root, on_error="skip")
