"""Folders of image files: what is read, and the line that each mistake gets."""

import os

import numpy as np
import pytest
import watchdog
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks.reliability_helpers import bad_configurations, bad_folders, bad_images
from cil_func.data import sources
from cil_func.data.reading import checking, folders
from cil_func.errors import DataError

RNG = np.random.RandomState(0)


def pixels(height=8, width=8):
    return RNG.randint(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """A folder with two classes of three training images and one test image each, 8x8."""
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "ant"):
            for index in range(count):
                save(tmp_path / split / name / f"{index}.png", pixels())
    return tmp_path


def refused(root, **settings):
    """Returns the line with which a folder is refused."""
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


def test_hidden_and_system_files_are_ignored_and_extensions_match_in_any_case(root):
    (root / "train" / ".cache").mkdir()
    (root / "train" / "ant" / "._0.png").write_bytes(b"resource fork")
    (root / "train" / "ant" / ".thumbs").mkdir()
    (root / "train" / "ant" / ".thumbs" / "0.png").write_bytes(b"no image")
    for name in (".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"):
        for folder_of_it in (root, root / "train", root / "train" / "ant"):
            (folder_of_it / name).write_text("no image")
    (root / "labels.csv").write_text("no image, and in no folder of images")
    (root / "train" / "ant" / "2.png").rename(root / "train" / "ant" / "2.PNG")
    data = sources.load("image_folder", path=str(root))
    assert data.train_targets.tolist() == [0, 0, 0, 1, 1, 1] and data.warnings == ()


def test_files_that_are_not_used_are_counted_in_one_warning(root):
    for number in range(3):
        (root / "train" / "ant" / f"{number}.heic").write_bytes(b"of a phone")
    (root / "train" / "cat" / "inner").mkdir()
    (root / "train" / "cat" / "inner" / "0.HEIC").write_bytes(b"of a phone")
    (root / "train" / "cat" / "labels").write_text("no image")
    save(root / "train" / "0.png", pixels())
    save(root / "0.png", pixels())
    (root / "test" / "names.txt").write_text("no image")
    (only,) = sources.load("image_folder", path=str(root)).warnings
    assert sorted(only.split("; ")) == sorted([
        "6 files in train/ were not used: 4 .heic, 1 outside of the class folders, 1 without an extension",
        "1 file in test/ was not used: 1 .txt",
        f"1 file in {root} itself was not used: 1 outside of the class folders",
    ])  # fmt: skip


def test_a_class_without_images_lists_its_other_files(root):
    for file in (root / "train" / "ant").iterdir():
        file.rename(file.with_suffix(".heic"))
    assert "train/ant holds no images" in refused(root) and "it holds 3 .heic" in refused(root)


def test_every_kind_of_file_that_pillow_reads_is_used(root):
    for number, extension in enumerate((".jfif", ".jpe", ".gif", ".apng", ".webp", ".tga")):
        save(root / "train" / "ant" / f"more{number}{extension}", pixels())
    data = sources.load("image_folder", path=str(root))
    assert data.train_targets.tolist() == [0] * 9 + [1] * 3 and data.warnings == ()


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
    assert folders.read(str(tmp_path), folders.Settings(one_class=True)).class_names == ("ant",)
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


# --- Which folder is the test set, and which classes are the same


def test_a_labelled_val_is_used_beside_a_test_folder_of_bare_images(root):
    (root / "test").rename(root / "val")
    for number in range(5):
        save(root / "test" / f"{number}.png", pixels())
    data = sources.load("image_folder", path=str(root))
    assert data.test_targets.tolist() == [0, 1]
    assert data.warnings == ("val/ is the test set, test/ is not used: test/ has none of train's classes",)
    (root / "test" / "unknown").mkdir()  # as Kaggle has it
    (root / "test" / "0.png").rename(root / "test" / "unknown" / "0.png")
    assert np.array_equal(sources.load("image_folder", path=str(root)).test_images, data.test_images)


def test_a_test_folder_of_bare_images_alone_is_refused_with_the_way_out(root):
    for name in ("ant", "cat"):
        (root / "test" / name / "0.png").rename(root / "test" / f"{name}.png")
        (root / "test" / name).rmdir()
    message = refused(root)
    assert f"{root / 'test'} holds 2 files and no class folders" in message
    assert "put them in the classes' folders" in message


def test_a_path_one_folder_too_high_gets_the_right_one_proposed(root):
    (root / "inner").mkdir()
    (root / "train").rename(root / "inner" / "train")
    (root / "test").rename(root / "inner" / "test")
    message = refused(root)
    assert "no train/ folder and no test/ or val/ folder (it holds inner)" in message
    assert message.endswith(f"set data.path to {root / 'inner'}")


def test_a_folder_called_nearly_right_is_to_be_renamed(root):
    (root / "test").rename(root / "Validation")
    assert "no test/ or val/ folder (it holds Validation, train); rename Validation to val" in refused(root)
    (root / "train").rename(root / "Training")
    assert "rename Training to train" in refused(root)


def test_all_classes_inside_one_folder_are_to_be_moved(root):
    for split in ("train", "test"):
        (root / split).rename(root / "moved")
        (root / split).mkdir()
        (root / "moved").rename(root / split / "animals")
    message = refused(root)
    assert "a single class, 'animals'" in message and "its images lie in folders inside it (ant, cat)" in message


def test_one_name_in_two_unicode_forms_is_one_class(root):
    composed, decomposed = "S\u00e3o", "Sa\u0303o"
    save(root / "train" / decomposed / "0.png", pixels())  # as macOS writes it
    save(root / "test" / composed / "0.png", pixels())
    data = sources.load("image_folder", path=str(root))
    assert data.class_names == (composed, "ant", "cat") and data.test_targets.tolist() == [0, 1, 2]
    assert np.array_equal(data.train_images[0], np.asarray(Image.open(root / "train" / decomposed / "0.png")))
    save(root / "train" / composed / "0.png", pixels())
    assert "two Unicode forms" in refused(root)


def test_both_names_are_shown_if_they_differ_in_what_people_overlook(root):
    (root / "test" / "ant").rename(root / "test" / "Ant ")
    assert "class 'ant' is in" in refused(root) and "it is 'Ant ' there" in refused(root)


def test_classes_inside_a_class_folder_are_warned_of(root):
    for kind in ("dog", "horse"):
        save(root / "train" / "animal" / kind / "0.png", pixels())
    save(root / "test" / "animal" / "0.png", pixels())
    (only,) = sources.load("image_folder", path=str(root)).warnings
    assert f"{root / 'train' / 'animal'} holds images only in folders inside it (dog, horse)" in only
    assert "one class, 'animal'" in only
    save(root / "train" / "animal" / "0.png", pixels())  # a class that sorts some of its images into folders
    assert sources.load("image_folder", path=str(root)).warnings == ()


def test_the_same_folder_inside_each_class_is_no_class(root):
    """Tiny ImageNet has train/<class>/images/."""
    for name in ("ant", "cat"):
        (root / "train" / name).rename(root / "moved")
        (root / "train" / name).mkdir()
        (root / "moved").rename(root / "train" / name / "images")
    assert sources.load("image_folder", path=str(root)).warnings == ()


# --- Several mistakes at once


def test_all_mistakes_of_a_folder_are_named_at_once(root):
    (root / "train" / "bee").mkdir()
    save(root / "test" / "dog" / "0.png", pixels())
    (root / "test" / "cat" / "0.png").write_bytes(b"")
    message = refused(root)
    for part in ("'bee' is in", "'dog' is in", "train/bee holds no images", "test/cat/0.png: the file is empty"):
        assert part in message, part
    assert "(1) " in message and "(4) " in message


def test_several_unreadable_images_are_named_at_once(root):
    names = ("train/ant/1.png", "train/cat/2.png", "test/cat/0.png")
    for name in names:
        (root / name).write_bytes(b"")
    message = refused(root)
    assert all(f"{root / name}: the file is empty" in message for name in names)


def test_many_mistakes_are_counted(root):
    for number in range(9):
        (root / "train" / "ant" / f"more{number}.png").write_bytes(b"")
    assert refused(root).endswith("; and 5 more")


def test_mistakes_in_class_names_are_found_before_an_image_is_read(root, monkeypatch):
    def check(names):
        raise DataError(f"{len(names)} classes are too few")

    (root / "train" / "bee").mkdir()
    assert "(3) 3 classes are too few" in refused(root, check=check)
    (root / "train" / "bee").rmdir()
    monkeypatch.setattr(folders.decoding, "read_all", lambda *_, **__: pytest.fail("images were read"))
    assert refused(root, check=check) == "2 classes are too few"


# --- What is said of the images


def test_turned_and_transparent_and_dark_images_are_counted_once(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("train/ant/0.png", "train/cat/1.png"):  # the first file is opened twice, for its size
        Image.fromarray(pixels()).save(root / name, exif=exif)
    Image.fromarray(np.dstack([pixels(), pixels()[..., :1]])).save(root / "test/cat/0.png")
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 16).save(root / "train/cat/0.tiff")
    turned, transparent, dark = sources.load("image_folder", path=str(root)).warnings
    assert turned == "2 images with an orientation in EXIF: turned upright (data.exif_orientation)"
    assert transparent.startswith("1 image with transparent parts: these show the colour [255, 255, 255]")
    assert dark.startswith("1 image of 16 bits a value, dark: only the lowest quarter of the range is used")


def test_orientation_follows_the_key_and_is_upright_for_image_folder_alone(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = pixels()
    Image.fromarray(image).save(root / "train/ant/0.png", exif=exif)
    for setting, expected in (("auto", image[::-1, ::-1]), ("apply", image[::-1, ::-1]), ("ignore", image)):
        data = sources.load("image_folder", path=str(root), exif_orientation=setting)
        assert np.array_equal(data.train_images[0], expected), setting
    assert "left as stored" in data.warnings[0]


def test_training_images_that_do_not_vary_are_warned_of(root):
    black = np.zeros((8, 8, 4), dtype=np.uint8)
    for number in range(3):
        drawn = black.copy()
        drawn[number, :, 3] = 255
        save(root / "train" / "ant" / f"{number}.png", drawn)
    load = lambda background: sources.load("image_folder", path=str(root), background=background).warnings  # noqa: E731
    assert not any("the training images" in line for line in load((255, 255, 255)))
    assert "the training images of class 'ant' have one colour all over, or most of them do" in load((0, 0, 0))
    assert "the training images of class 'ant' have one colour all over, or most of them do" in load(())
    one = pixels()
    for name in ("ant", "cat"):
        for number in range(3):
            save(root / "train" / name / f"{number}.png", one)
    assert load((255, 255, 255)) == ("the training images of all classes are all the same",)


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
    (root / "train" / "cat" / "same").unlink()
    os.symlink("../ant", root / "train" / "cat" / "x")  # and round through another class
    os.symlink("../cat", root / "train" / "ant" / "y")
    line = refused(root)
    assert "train/ant/y/x: it is a link to a folder that holds it" in line and "train/cat/x/y: it is a link" in line
    (root / "train" / "ant" / "y").unlink()
    assert len(sources.load("image_folder", path=str(root)).train_images) == 9  # those of ant are cat's, too


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
    """Returns what is wrong with the error that a bad folder raises. The configuration's values are passed by hand."""
    path = case.make(root)
    given = dict(override.removeprefix("data.").split("=") for override in case.overrides)
    given["image_size"] = int(given.get("image_size", 0))
    try:
        sources.load(given.pop("name", "image_folder"), path=path, **given)
    except DataError as refusal:
        return bad_configurations.fault(3, f"train.py: {refusal}\n", expected=3, says=case.says)
    return "taken"


def test_the_hundred_folders_cover_every_damage_name_and_mistake():
    assert len(BAD) == 100
    said = [case.what.split(", ") for case in BAD]
    for names in (bad_images.DAMAGES, bad_folders.PLACES):
        assert {word for words in said for word in words} >= set(names)
    assert {case.what for case in BAD} >= set(bad_folders.AROUND)
    assert [case.what for case in BAD] == [case.what for case in bad_folders.folders(100)]
    assert [case.what for case in BAD] != [case.what for case in bad_folders.folders(100, seed=1)]


def test_the_folder_that_they_are_made_of_is_correct(tmp_path):
    """Otherwise each bad folder might be refused for another reason."""
    assert len(sources.load("image_folder", path=bad_folders.good(tmp_path / "x")).train_images) == 6


def test_a_folder_that_may_not_be_listed(root, monkeypatch):
    """Simulated, since the tests may run as root, who may list every folder."""
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
    look = folders.listing.list_images

    def lose_one(*arguments, **settings):
        found = look(*arguments, **settings)
        os.unlink(found.splits[0][0][0])
        return found

    monkeypatch.setattr(folders.listing, "list_images", lose_one)
    assert "train/ant/0.png: the file has disappeared" in refused(root)
    data = sources.load("image_folder", path=str(root), on_error="skip")  # and the next one goes
    assert data.skipped == ("train/ant/1.png: the file has disappeared",)
    assert data.train_targets.tolist() == [0, 1, 1, 1]


def test_too_little_memory_is_one_line(root, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(folders.decoding, "read_all", fail)
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


@pytest.mark.parametrize("storage", ["resident", "streaming", "packed"])
def test_two_sizes_are_no_reason_to_skip(storage, root):
    save(root / "train" / "cat" / "1.png", pixels(9, 9))
    (root / "train" / "ant" / "0.png").write_bytes(b"no image")
    line = refused(root, on_error="skip", storage=storage)
    assert "images differ in size" in line and line.endswith("set data.image_size to bring all to one size")
    assert "skip" not in line
    data = sources.load("image_folder", path=str(root), on_error="skip", storage=storage, image_size=8)
    assert len(data.train_images) == 5 and len(data.skipped) == 1


def test_odd_images_that_stay_in_their_files_are_counted_among_those_looked_at(root, monkeypatch):
    for name in ("0", "1"):
        Image.fromarray(RNG.randint(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA").save(root / f"train/cat/{name}.png")
    for size in (0, 8):
        whole, streamed = (
            sources.load("image_folder", path=str(root), storage=storage, image_size=size, on_error="skip").warnings
            for storage in ("resident", "streaming")
        )
        assert whole == streamed and whole[0].startswith("2 images with transparent parts")
    monkeypatch.setattr(checking, "_DECODED", 6)
    (root / "train/ant/3.png").write_bytes((root / "train/ant/2.png").read_bytes())
    (line,) = sources.load("image_folder", path=str(root), storage="streaming").warnings
    assert " of the 8 that were looked at with transparent parts" in line


def test_names_that_are_no_utf_8_and_a_home_folder_in_lists_of_files(root, monkeypatch):
    save(root / "train" / "ant" / os.fsdecode(b"\xff.png"), pixels())
    monkeypatch.setenv("HOME", str(root.parent))
    files = sources.load("image_folder", path=f"~/{root.name}").train_files
    assert files[:4] == ("train/ant/0.png", "train/ant/1.png", "train/ant/2.png", r"train/ant/\xff.png")


def test_packed_files_of_two_lists_of_classes_are_two(root, tmp_path):
    save(root / "train" / "dog big" / "0.png", pixels())
    save(root / "test" / "dog big" / "0.png", pixels())
    found = []
    for folder, classes in (("one", "ant\ncat\n"), ("two", "ant\ndog big\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "classes.v1.txt").write_text(classes)
        subset = str(tmp_path / folder / "classes.v1.txt")
        found.append(sources.load("image_folder", path=str(root), subset=subset, storage="packed"))
    assert [data.class_names for data in found] == [("ant", "cat"), ("ant", "dog big")]
    assert len([*(root / "packed").glob("*.uint8")]) == 2
