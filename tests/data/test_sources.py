"""Named data sets: the embedded digits, CIFAR-100 with and without a download, ImageNet's folders."""

import hashlib
import os
import pickle
import shutil
import threading
import time
import typing
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo
from torchvision.datasets import CIFAR100

from cil_func.config import schema
from cil_func.data import cifar100, sources
from cil_func.data.reading import subsets
from cil_func.errors import ConfigError, DataError


def test_digits_are_scikit_learns_with_a_stratified_fifth_held_out():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, whole = sources.load("digits"), load_digits()
    assert data.class_names == tuple("0123456789")
    assert data.train_images.shape == (1437, 8, 8, 3) and data.test_images.shape == (360, 8, 8, 3)
    assert data.train_images.dtype == np.uint8 and data.train_targets.dtype == np.int64
    # level v of 16 as the nearest of v * 255 / 16
    levels = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    rows = train_test_split(np.arange(1797), test_size=0.2, stratify=whole.target, random_state=0)
    for found, targets, own in zip(data[0:4:2], data[1:4:2], rows, strict=True):
        assert np.array_equal(found, np.repeat(levels[whole.images[own].astype(int)][..., None], 3, axis=-1))
        assert np.array_equal(targets, whole.target[own])
    shares = np.bincount(data.test_targets) / np.bincount(whole.target)
    assert np.all(abs(shares - 0.2) < 0.01)


def test_digits_split_is_the_same_every_time_and_disjoint():
    first, second = sources.load("digits"), sources.load("digits")
    assert np.array_equal(first.test_images, second.test_images)
    rows = {bytes(image) for image in first.train_images}
    assert not any(bytes(image) in rows for image in first.test_images)  # digits has no duplicate images


def test_digits_can_be_resized():
    data = sources.load("digits", image_size=32)
    assert data.train_images.shape == (1437, 32, 32, 3)
    same = sources.load("digits", image_size=8)
    assert np.array_equal(same.train_images, sources.load("digits").train_images)


def test_digits_that_would_not_fit_are_refused_before_they_are_resized(monkeypatch):
    monkeypatch.setattr(sources.decoding, "available_bytes", lambda: 10**9)
    with pytest.raises(DataError, match=r"1797 images of 1024x1024 need 5\.7 GB"):  # 1797 x 1024 x 1024 x 3 bytes
        sources.load("digits", image_size=1024)


def test_on_error_is_stop_or_skip_and_digits_ignore_it():
    with pytest.raises(ConfigError, match=r"data\.on_error = 'ignore'; known are stop, skip"):
        sources.load("digits", on_error="ignore")
    assert sources.load("digits", on_error="skip").skipped == ()


def test_the_words_are_the_configurations():
    hints = typing.get_type_hints(schema.Data)
    assert typing.get_args(hints["on_error"]) == sources.ON_ERROR
    built_in, _ = typing.get_args(hints["name"])  # or the name of a function of the user's own
    assert typing.get_args(built_in) == sources.NAMES


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"cifar100, image_folder.*did you mean 'cifar100'"):
        sources.load("cifar10")


@pytest.fixture
def no_network(monkeypatch):
    """Lets every download fail after half of the archive, as on a machine without a network."""
    import torchvision.datasets.cifar as module

    def fail(url, root, filename, md5):
        from pathlib import Path

        (Path(root) / filename).write_bytes(b"half an archive")
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(module, "download_and_extract_archive", fail)


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path, no_network):
    root = tmp_path / "a" / "b"
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            sources.load("cifar100", path=str(root))
        message = str(caught.value)
        assert "\n" not in message
        for part in ("cifar100", str(root), "no route", 'data.name = "image_folder"', "data.path"):
            assert part in message
        assert list(tmp_path.iterdir()) == []


def test_a_failed_download_leaves_the_default_folder_as_it_was(
    tmp_path, no_network, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "mine.txt").write_text("stays")
    with pytest.raises(DataError, match=r"\.data"):
        sources.load("cifar100")
    assert [p.name for p in (tmp_path / ".data").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("path", ["~nobody-by-this-name/x", "x" * 5000, "file", "file/below", "a\nb"])
def test_a_path_that_cannot_hold_cifar_is_one_line(path, tmp_path, no_network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cifar100 is not in") as caught:
        sources.load("cifar100", path=path)
    assert str(caught.value).isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def fake_cifar(root, monkeypatch):
    """Makes CIFAR-100's files with 4 and 2 images, and sets torchvision's checksums accordingly."""
    base = root / "cifar-100-python"
    base.mkdir(parents=True)
    names = [f"class{index:03}" for index in range(100)]
    pixels = np.random.RandomState(0).randint(0, 256, (6, 3072), dtype=np.uint8)
    contents = {
        "train": {"data": pixels[:4], "fine_labels": [3, 0, 99, 3]},
        "test": {"data": pixels[4:], "fine_labels": [99, 0]},
        "meta": {"fine_label_names": names},
    }
    sums = {}
    for name, content in contents.items():
        (base / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return pixels, names


def test_cifar_that_is_there_already_is_read_without_a_download(tmp_path, no_network, monkeypatch):
    pixels, names = fake_cifar(tmp_path, monkeypatch)
    data = sources.load("cifar100", path=str(tmp_path))
    assert data.class_names == tuple(names)
    assert data.train_targets.tolist() == [3, 0, 99, 3] and data.test_targets.tolist() == [99, 0]
    assert data.train_targets.dtype == np.int64
    images = pixels.reshape(6, 3, 32, 32).transpose(0, 2, 3, 1)  # the archive holds channels first
    assert np.array_equal(data.train_images, images[:4]) and np.array_equal(data.test_images, images[4:])
    assert sources.load("cifar100", path=str(tmp_path), image_size=16).test_images.shape == (2, 16, 16, 3)


def test_a_damaged_cifar_is_not_read(tmp_path, no_network, monkeypatch):
    fake_cifar(tmp_path, monkeypatch)
    with (tmp_path / "cifar-100-python" / "train").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="could not be downloaded"):
        sources.load("cifar100", path=str(tmp_path))
    assert (tmp_path / "cifar-100-python" / "test").exists()  # what was there is left


def imagenet(root, num_classes):
    image = Image.fromarray(np.full((40, 30, 3), 9, dtype=np.uint8))
    for split in ("train", "val"):
        for index in range(num_classes):
            (root / split / f"n{index:08}").mkdir(parents=True)
            image.save(root / split / f"n{index:08}" / "0.JPEG")
    (root / "test").mkdir()  # ImageNet's own test images have no labels and no class folders
    return str(root)


def test_imagenet100_is_read_from_train_and_val_at_224(tmp_path):
    data = sources.load("imagenet100", path=imagenet(tmp_path, 100))
    assert data.train_images.shape == (100, 224, 224, 3) and len(data.class_names) == 100
    small = sources.load("imagenet100", path=str(tmp_path), image_size=16)
    assert small.test_images.shape == (100, 16, 16, 3)


def test_imagenet_skips_unreadable_images_too(tmp_path):
    path = imagenet(tmp_path, 100)
    (tmp_path / "train" / "n00000007" / "1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"n00000007/1\.JPEG: the file is empty"):
        sources.load("imagenet100", path=path, image_size=8)
    data = sources.load("imagenet100", path=path, image_size=8, on_error="skip")
    assert data.skipped == ("train/n00000007/1.JPEG: the file is empty",) and len(data.train_images) == 100


def test_imagenet_with_another_number_of_classes_is_refused(tmp_path):
    path = imagenet(tmp_path, 7)
    with pytest.raises(DataError, match="has 7 class folders, imagenet100 has 100"):
        sources.load("imagenet100", path=path)
    with pytest.raises(DataError, match="has 7 class folders, imagenet1000 has 1000"):
        sources.load("imagenet1000", path=path)
    with pytest.raises(DataError, match=r"data\.path is empty"):
        sources.load("imagenet100")


def test_a_folder_of_images_is_not_filled_with_a_download(tmp_path, no_network):
    """A person gives a path to cifar.toml and forgets data.name."""
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(DataError, match=r'holds train/ and no CIFAR-100; set data\.name = "image_folder"'):
        sources.load("cifar100", path=str(tmp_path))


def test_imagenets_orientation_is_left_as_the_fields_results_leave_it(tmp_path):
    path = imagenet(tmp_path, 100)
    exif = Image.Exif()
    exif[0x0112] = 3
    half = np.zeros((16, 16, 3), dtype=np.uint8)
    half[:8] = 255
    Image.fromarray(half).save(tmp_path / "train" / "n00000000" / "0.JPEG", exif=exif)
    assert sources.load("imagenet100", path=path, image_size=16).train_images[0, 0].min() > 200
    assert sources.load("imagenet100", path=path, image_size=16, exif_orientation="apply").train_images[0, 0].max() < 50


def test_a_stamp_is_that_of_the_files_wherever_they_are(tmp_path):
    for split in ("train", "test"):
        for name in ("ant", "cat"):
            (tmp_path / "a" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(tmp_path / "a" / split / name / "0.bmp")
    loaded = sources.load("image_folder", path=str(tmp_path / "a"))
    assert sources.stamp("image_folder", str(tmp_path / "a") + "/") == loaded.stamp != ""
    (tmp_path / "a").rename(tmp_path / "b")
    assert sources.stamp("image_folder", str(tmp_path / "b")) == loaded.stamp
    file = tmp_path / "b" / "test" / "cat" / "0.bmp"
    size, before = file.stat().st_size, file.stat().st_mtime_ns
    Image.new("RGB", (8, 8), "blue").save(file)
    os.utime(file, ns=(before + 1, before + 1))
    assert file.stat().st_size == size and sources.stamp("image_folder", str(tmp_path / "b")) != loaded.stamp
    assert sources.stamp("digits", "") == ""


def imagenet_names(count=1000):
    return [f"n{index:08}x" for index in range(count)]  # no synsets, so their hash isn't compared


def test_subsets_of_imagenet_are_the_published_ones(tmp_path):
    names = imagenet_names()
    assert subsets.choose("first-100", reversed(names)) == names[:100]
    expected = np.random.RandomState(1993).choice(names, 100, replace=False)  # the call of LUCIR's script
    assert subsets.choose("seed-1993", names) == sorted(expected.tolist())
    synsets = ImageNetInfo().label_names()  # timm's list, in ImageNet's order
    assert subsets.choose("first-100", synsets)[::99] == ["n01440764", "n01855672"]
    chosen = subsets.choose("seed-1993", synsets)
    assert len(set(chosen)) == 100 and {"n01729322", "n01514668", "n04550184"} <= set(chosen)
    with pytest.raises(DataError, match="is of ImageNet's folders, not of these"):
        subsets.choose("seed-1993", [f"n{index:08}" for index in range(1000)])
    with pytest.raises(DataError, match="among ImageNet's 1000 classes, and there are 7"):
        subsets.choose("first-100", names[:7])


def test_classes_from_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("# two\nn2 crane\n\nn1\nn2\n")
    assert subsets.choose(str(tmp_path / "list.txt"), ["n1", "n2", "n3"]) == ["n1", "n2"]
    (tmp_path / "names.txt").write_text("\ufeffcat big\ndog 1 0\ncafe\u0301\n", encoding="utf-8")
    assert subsets.choose(str(tmp_path / "names.txt"), ["caf\u00e9", "cat", "cat big", "dog"]) == [
        "caf\u00e9", "cat big", "dog",
    ]  # fmt: skip
    for content, fault in (("n9\nn1\n", "class 'n9' has no folder"), ("n1\n", "1 classes"), (b"\xff", "not UTF-8")):
        (tmp_path / "bad.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=fault):
            subsets.choose(str(tmp_path / "bad.txt"), ["n1", "n2", "n3"])
    with pytest.raises(DataError, match=r"gone\.txt can't be read \(No such file"):
        subsets.choose(str(tmp_path / "gone.txt"), ["n1"])


def test_a_subset_is_read_and_all_of_imagenet_needs_one(tmp_path, monkeypatch):
    path = imagenet(tmp_path, 6)
    monkeypatch.setattr(subsets, "IMAGENET_CLASSES", 6)
    monkeypatch.setitem(sources._OF_IMAGENET, "imagenet100", 2)
    with pytest.raises(DataError, match=r'has 6 class folders, imagenet100 has 2; set data\.subset to "first-100"'):
        sources.load("imagenet100", path=path, image_size=8)
    (tmp_path / "list.txt").write_text("n00000004\nn00000001\n")
    data = sources.load("imagenet100", path=path, image_size=8, subset=str(tmp_path / "list.txt"))
    assert data.class_names == ("n00000001", "n00000004") and data.train_targets.tolist() == [0, 1]
    assert sources.stamp("imagenet100", path, subset=str(tmp_path / "list.txt")) == data.stamp


def test_cub_200_as_it_is_distributed(tmp_path):
    root = tmp_path / "CUB_200_2011"
    files = ["001.Albatross/a.jpg", "001.Albatross/b.jpg", "002.Auk/c.jpg", "002.Auk/d.jpg"]
    for number, file in enumerate(files):
        (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (50 * number,) * 3).save(root / "images" / file)
    tables = {"images": files, "image_class_labels": "1122", "train_test_split": "1010"}
    for name, values in tables.items():
        (root / f"{name}.txt").write_text("".join(f"{number} {value}\n" for number, value in enumerate(values, 1)))
    for path in (root, tmp_path):
        data = sources.load("cub200", path=str(path), image_size=8)
        assert data.class_names == ("001.Albatross", "002.Auk")
        assert data.train_images[:, 0, 0, 0].tolist() == [0, 100] and data.train_targets.tolist() == [0, 1]
        assert data.test_images[:, 0, 0, 0].tolist() == [50, 150] and data.test_targets.tolist() == [0, 1]
    (root / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(DataError, match="its text files are about different images"):
        sources.load("cub200", path=str(root))


def test_core50_as_it_is_distributed(tmp_path):
    """Eight sessions are for training, the third, seventh and tenth for tests; a folder's number is its class."""
    root = tmp_path / "core50_128x128"
    for session in range(1, 12):
        for number in range(1, 51):
            (root / f"s{session}" / f"o{number}").mkdir(parents=True)
            file = root / f"s{session}" / f"o{number}" / f"C_{session:02}_{number:02}_000.png"
            Image.new("RGB", (8, 8), (number, session, 0)).save(file)
    for path in (root, tmp_path):
        data = sources.load("core50", path=str(path), image_size=8)
        assert data.class_names == tuple(f"o{number}" for number in range(1, 51))
        for images, targets, sessions in (
            (data.train_images, data.train_targets, (1, 2, 4, 5, 6, 8, 9, 11)),
            (data.test_images, data.test_targets, (3, 7, 10)),
        ):
            expected = [(number, session) for number in range(1, 51) for session in sessions]
            assert images[:, 0, 0, :2].tolist() == [list(each) for each in expected]
            assert targets.tolist() == [number - 1 for number, _ in expected]
    assert data.train_files[1] == "core50_128x128/s2/o1/C_02_01_000.png"
    (root / "s7" / "o9" / "C_07_09_000.png").unlink()
    with pytest.raises(DataError, match=r"core50_128x128 has no images in s7/o9; unpack the archive again"):
        sources.load("core50", path=str(root))
    with pytest.raises(DataError, match=r"s1 holds neither s1/o1/ nor core50_128x128/ with it; unpack core50"):
        sources.load("core50", path=str(root / "s1"))


@pytest.mark.parametrize("owner", ["Path", "locking"])
def test_a_download_is_locked_though_the_folder_is_deleted_meanwhile(owner, tmp_path, monkeypatch):
    """By another process whose download fails: before the lock's file is opened, or after it was locked."""
    root, name = tmp_path / "a", {"Path": "open", "locking": "lock"}[owner]
    function, calls = getattr(getattr(cifar100, owner), name), []

    def deleted_before(*given):
        calls.append(given)
        if len(calls) < 4:
            shutil.rmtree(root)
        return function(*given)

    monkeypatch.setattr(getattr(cifar100, owner), name, deleted_before)
    with cifar100._download_lock(root, "stem"):
        assert [path.name for path in root.iterdir()] == ["stem.lock"] and len(calls) == 4
    assert not root.exists()


def test_one_process_at_a_time_downloads_and_what_is_there_is_waited_for_by_nobody(tmp_path):
    """Several machines may have one file system, and one archive must not be written by two."""
    root, inside, most, gate = tmp_path / "a", [0], [0], threading.Semaphore(0)

    def download(fails=False):
        with cifar100._download_lock(root, "stem"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            assert gate.acquire(timeout=60)
            inside[0] -= 1
            if fails:
                raise ZeroDivisionError

    def until_one_is_inside():
        end = time.monotonic() + 60
        while not inside[0]:
            assert time.monotonic() < end
            time.sleep(0.01)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(download, fails=True)
        until_one_is_inside()
        second = pool.submit(download)
        time.sleep(0.2)  # it waits for the lock that the first one deletes
        gate.release()
        assert first.exception()
        until_one_is_inside()
        third = pool.submit(download)
        time.sleep(0.2)  # the lock is another file by now
        gate.release(2)
        assert not second.exception() and not third.exception()
    assert most == [1] and list(tmp_path.iterdir()) in ([], [root])
    (root / "stem").mkdir(parents=True)
    with cifar100._download_lock(root, "stem"), cifar100._download_lock(root, "stem"):
        assert [path.name for path in root.iterdir()] == ["stem"]
    with pytest.raises(ZeroDivisionError), cifar100._download_lock(tmp_path / "b" / "c", "stem"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
