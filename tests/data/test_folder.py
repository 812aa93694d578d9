"""Folders of image files: what is read, and each mistake with the line it gets."""

import io
import os

import numpy as np
import pytest
import torchvision.transforms.functional as tvf
from PIL import Image

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
    assert "\n" not in str(caught.value)
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


def test_chunks_and_threads_keep_the_order(root, monkeypatch):
    whole = sources.load("image_folder", path=str(root))
    monkeypatch.setattr(folder, "_CHUNK", 2)
    monkeypatch.setattr(folder, "_THREADED_PIXELS", 0)
    assert np.array_equal(sources.load("image_folder", path=str(root)).train_images, whole.train_images)


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


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated png", "truncated jpeg", "dangling link"])
def test_a_broken_image_is_named(root, damage):
    file = root / "train" / "cat" / "1.png"
    whole = io.BytesIO()
    Image.fromarray(pixels(64, 64)).save(whole, "jpeg" if "jpeg" in damage else "png")
    content = {"empty": b"", "garbage": b"GIF89a, or so they say"}.get(damage, whole.getvalue()[:-500])
    file.unlink()
    if damage == "dangling link":
        file.symlink_to(root / "gone.png")
    else:
        file.write_bytes(content)
    message = refused(root, image_size=8)
    assert str(file) in message and "broken image" in message
    assert ("the file is empty" in message) == (damage == "empty")


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


@pytest.mark.parametrize(("height", "width"), [(30, 47), (47, 30), (9, 33), (40, 40), (16, 17)])
def test_resize_is_torchvisions_shorter_side_and_centre_crop(height, width):
    image = Image.fromarray(pixels(height, width))
    expected = tvf.center_crop(tvf.resize(image, [16], tvf.InterpolationMode.BICUBIC), [16])
    assert np.array_equal(np.asarray(folder.resize(image, 16)), np.asarray(expected))


def test_other_modes_become_rgb(root):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    rgb = pixels()
    alpha = np.dstack([rgb, np.full((8, 8), 7, dtype=np.uint8)])
    palette = Image.fromarray(rgb // 128 * 255).quantize(8)
    modes = {
        "grey": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "rgba": (Image.fromarray(alpha), rgb),
        "palette": (palette, np.asarray(palette.convert("RGB"))),
        "bilevel": (Image.fromarray(grey > 100), np.dstack([(grey > 100) * 255] * 3)),
    }
    for name, (image, expected) in modes.items():
        file = root / "train" / "ant" / "0.png"
        image.save(file)
        data = sources.load("image_folder", path=str(root))
        assert np.array_equal(data.train_images[0], expected), name


def test_cmyk_becomes_rgb(root):
    file = root / "train" / "ant" / "0.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(file)  # no cyan: red
    (root / "train" / "ant" / "0.png").unlink()
    red, green, blue = sources.load("image_folder", path=str(root)).train_images[0, 4, 4]
    assert red > 200 and green < 60 and blue < 60


def test_sixteen_bit_grey_is_scaled_not_clipped(root):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(root / "train" / "ant" / "0.png")
    image = sources.load("image_folder", path=str(root)).train_images[0]
    assert np.array_equal(image[..., 0], np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(image[..., 0], image[..., 2])
    (root / "train" / "ant" / "0.png").unlink()  # and in the other format that has 16 bits, big end first
    (root / "train" / "ant" / "0.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(sources.load("image_folder", path=str(root)).train_images[0], image)


def test_thirty_two_bit_images_are_refused_by_name(root):
    file = root / "train" / "ant" / "0.tiff"
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(file)
    assert str(file) in refused(root) and "32 bits" in refused(root)


def test_a_set_that_does_not_fit_in_memory_is_refused_before_decoding(root, monkeypatch):
    monkeypatch.setattr(folder, "_available_bytes", lambda: 10**9)
    message = refused(root, image_size=10_000)  # 8 images x 10,000 x 10,000 x 3 bytes = 2.4 GB
    assert "need 2.4 GB" in message and "1.0 GB are available" in message and "data.image_size" in message


def test_the_memory_available_is_some_and_no_more_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < folder._available_bytes() <= total
