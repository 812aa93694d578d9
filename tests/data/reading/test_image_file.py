"""One image file: to which pixels it is converted, or for which reason it is refused."""

import os
import random
import struct
import zlib

import numpy as np
import pytest
import torchvision.transforms.functional as tvf
import watchdog
from PIL import Image, features
from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader

from benchmarks.reliability_helpers import bad_images
from cil_func.data.reading import image_file
from cil_func.data.reading.pixels import DARK, TRANSPARENT, TURNED, WHITE, Rules, UnreadableError, _silenced

RNG = np.random.RandomState(0)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4  # (H, W)


def pixels(height=8, width=8):
    return RNG.randint(0, 256, (height, width, 3), dtype=np.uint8)


def read(file, image_size=0, **settings):
    with image_file.quiet():
        return image_file.read(str(file), image_size, **settings)


def refused(file, image_size=0):
    """Returns the reason why a file can't be used."""
    with pytest.raises(UnreadableError) as caught:
        read(file, image_size)
    return str(caught.value)


def threefold(grey):
    return np.dstack([grey] * 3)


# --- Converted

RGB = pixels()
ALPHA = RNG.randint(0, 256, (8, 8, 1), dtype=np.uint8)
FLAT = RGB // 128 * 255  # 8 colours at most, so that a palette holds them all
PALETTE = Image.fromarray(FLAT).quantize(8)
MODES = {
    "grey.png": (Image.fromarray(GREY), threefold(GREY)),
    "bilevel.png": (Image.fromarray(GREY > 100), threefold((GREY > 100) * np.uint8(255))),
    "palette.png": (PALETTE, FLAT),
    "palette.gif": (PALETTE, FLAT),
}


@pytest.mark.parametrize("name", MODES)
def test_other_modes_become_rgb(name, tmp_path):
    image, expected = MODES[name]
    image.save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), expected)


AS_STORED = Rules(upright=False, background=None)
SOME_ALPHA = {
    "grey.png": (np.dstack([GREY, ALPHA]), threefold(GREY)),
    "rgba.png": (np.dstack([RGB, ALPHA]), RGB),
    "rgba.tiff": (np.dstack([RGB, ALPHA]), RGB),
}


@pytest.mark.parametrize("name", SOME_ALPHA)
def test_transparent_pixels_show_the_background(name, tmp_path):
    array, colours = SOME_ALPHA[name]
    Image.fromarray(array).save(tmp_path / name)
    share = ALPHA / 255
    for background in (WHITE, (0, 128, 255)):
        found = read(tmp_path / name, rules=Rules(background=background))
        assert abs(found - (share * colours + (1 - share) * np.array(background))).max() <= 1
    assert np.array_equal(read(tmp_path / name, rules=AS_STORED), colours)
    assert np.array_equal(read(tmp_path / name, rules=AS_STORED), np.asarray(default_loader(str(tmp_path / name))))


def test_a_drawing_in_the_alpha_channel_is_seen(tmp_path):
    """A black image with shapes in its alpha channel only. Without a background it would be a black square."""
    drawn = np.zeros((8, 8, 4), dtype=np.uint8)
    drawn[2:4, 1:7, 3] = 255
    Image.fromarray(drawn).save(tmp_path / "d.png")
    assert np.array_equal(read(tmp_path / "d.png"), threefold(255 - drawn[..., 3]))
    assert not read(tmp_path / "d.png", rules=AS_STORED).any()


@pytest.mark.parametrize("transparency", [3, bytes([0, 100, 255])])
def test_transparent_colours_of_a_palette_show_the_background(transparency, tmp_path, recwarn):
    PALETTE.save(tmp_path / "p.png", transparency=transparency)
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P" and "transparency" in image.info
        numbers = np.asarray(image)
    alphas = np.full(256, 255)
    if isinstance(transparency, bytes):
        alphas[: len(transparency)] = list(transparency)
    else:
        alphas[transparency] = 0
    share = alphas[numbers][..., None] / 255
    assert share.min() < 1
    assert abs(read(tmp_path / "p.png") - (share * FLAT + (1 - share) * 255)).max() <= 1
    assert np.array_equal(read(tmp_path / "p.png", rules=AS_STORED), FLAT)
    assert not recwarn.list


def test_one_transparent_colour_of_a_file_without_a_palette(tmp_path):
    clear = tuple(int(value) for value in RGB[0, 0])
    Image.fromarray(RGB).save(tmp_path / "c.png", transparency=clear)
    expected = RGB.copy()
    expected[np.all(np.equal(RGB, clear), axis=2)] = 255
    assert np.array_equal(read(tmp_path / "c.png"), expected)
    assert np.array_equal(read(tmp_path / "c.png", rules=AS_STORED), RGB)


def test_orientation_transparency_and_dark_pixels_are_reported_and_nothing_else(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(RGB).save(tmp_path / "turned.tiff", exif=exif)
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "clear.png")
    Image.fromarray(np.dstack([RGB, ALPHA * 0 + 255])).save(tmp_path / "opaque.png")
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "12 bits.tiff")  # 252 * 16 = 4032 of 4095
    (tmp_path / "12 bits.png").write_bytes(png16(RGB.astype(np.uint16) * 16))
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "16 bits.tiff")
    Image.fromarray(np.minimum(GREY, 10)).save(tmp_path / "8 bits.png")
    said = set()
    for file in tmp_path.iterdir():
        read(file, report=lambda path, what, name=file.name: said.add((name, what)))
    assert said == {
        ("turned.tiff", TURNED), ("turned.jpg", TURNED), ("clear.png", TRANSPARENT),
        ("12 bits.tiff", DARK), ("12 bits.png", DARK),
    }  # fmt: skip


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg")  # no cyan: red
    red, green, blue = read(tmp_path / "c.jpg")[4, 4]
    assert red > 200 and green < 60 and blue < 60


def png16(values):
    """Returns a PNG of 16-bit samples (H, W, 1, 2, 3 or 4). Pillow can read it, but can't write one with colours."""
    height, width, samples = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]  # PNG's colour types
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    written = b"\x89PNG\r\n\x1a\n"
    for name, data in [*chunks, (b"IEND", b"")]:
        written += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return written


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = threefold(np.rint(values / 257).astype(np.uint8))
    Image.fromarray(values).save(tmp_path / "little.tiff")
    Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes()).save(tmp_path / "big.tiff")
    (tmp_path / "grey.png").write_bytes(png16(values[..., None]))
    (tmp_path / "grey.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    for file in sorted(tmp_path.iterdir()):
        assert np.array_equal(read(file), expected), file.name


def test_sixteen_bit_colours_are_scaled(tmp_path):
    values = RNG.randint(0, 65536, (8, 8, 4)).astype(np.uint16)
    for samples in (2, 3, 4):
        (tmp_path / "c.png").write_bytes(png16(values[..., :samples]))
        expected = values[..., :3] if samples > 2 else threefold(values[..., 0])
        assert abs(read(tmp_path / "c.png", rules=AS_STORED) - expected / 257).max() <= 1, samples


def test_the_content_of_a_file_decides_not_its_name(tmp_path):
    content = bad_images.encoded("BMP")
    for name in ("a.png", "a.jpeg", "a.bmp"):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read(tmp_path / name), read(tmp_path / "a.png"))


def test_of_several_frames_it_is_the_first(tmp_path):
    frames = [Image.fromarray(FLAT), Image.fromarray(255 - FLAT)]
    for name in ("a.gif", "a.tiff", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.array_equal(read(tmp_path / name), FLAT), name


# EXIF's orientation -> the upright image, made of what is stored (EXIF 2.32: where row 0 and column 0 belong)
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
WITH_EXIF = {
    "png": {}, "jpg": {}, "webp": {"lossless": True}, "tiff": {}, "tif": {"compression": "tiff_lzw"}, "avif": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", WITH_EXIF)
def test_exifs_orientation_is_applied_alike_in_every_kind_of_file(kind, tmp_path):
    if kind == "avif" and "AVIF" not in image_file.FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    image = Image.fromarray(pixels(8, 16))
    image.save(tmp_path / f"plain.{kind}", **WITH_EXIF[kind])
    stored = read(tmp_path / f"plain.{kind}")
    for orientation, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.{kind}"
        image.save(file, exif=exif, **WITH_EXIF[kind])
        assert np.array_equal(read(file), upright(stored)), orientation
        assert np.array_equal(read(file, rules=AS_STORED), stored), orientation
        assert read(file, 8).shape == (8, 8, 3)


def test_an_orientation_that_means_nothing_and_damaged_metadata_change_nothing(tmp_path):
    for number, exif in enumerate((b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\xff\xff\xff\xff", b"")):
        Image.fromarray(RGB).save(tmp_path / f"{number}.png", exif=exif)
        assert np.array_equal(read(tmp_path / f"{number}.png"), RGB)
    for orientation in (0, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(RGB).save(tmp_path / "o.png", exif=exif)
        assert np.array_equal(read(tmp_path / "o.png"), RGB)


def test_extensions_are_those_that_pillow_reads_without_other_programs():
    assert set(image_file.EXTENSIONS) > {*IMG_EXTENSIONS, ".jfif", ".jpe", ".gif", ".apng", ".tga", ".pbm"}
    assert (".avif" in image_file.EXTENSIONS) == bool("AVIF" in Image.OPEN and features.check("avif"))
    assert not {".eps", ".ps", ".pdf", ".wmf", ".h5", ".ico", ".pfm"} & set(image_file.EXTENSIONS)
    assert "EPS" not in image_file.FORMATS  # Pillow would start Ghostscript
    assert image_file.is_image("a/b.PNG") and not image_file.is_image("png") and not image_file.is_image("a.png.txt")


def test_every_kind_of_file_that_counts_and_that_pillow_writes_is_read(tmp_path):
    kinds, written = Image.registered_extensions(), 0
    for extension in image_file.EXTENSIONS:
        if kinds[extension] in Image.SAVE:
            Image.fromarray(FLAT).convert("P" if extension == ".gif" else "RGB").save(tmp_path / f"x{extension}")
            assert read(tmp_path / f"x{extension}").shape == (8, 8, 3), extension
            written += 1
    assert written > 20


# --- Brought to a size


@pytest.mark.parametrize(("height", "width"), [(30, 47), (47, 30), (9, 33), (40, 40), (16, 17)])
def test_resize_is_torchvisions_shorter_side_and_centre_crop(height, width):
    image = Image.fromarray(pixels(height, width))
    expected = tvf.center_crop(tvf.resize(image, [16], tvf.InterpolationMode.BICUBIC), [16])
    assert np.array_equal(np.asarray(image_file.resize(image, 16)), np.asarray(expected))


def test_a_strip_that_would_fill_the_memory_is_refused(tmp_path):
    Image.new("RGB", (100_000, 1)).save(tmp_path / "s.png")
    assert read(tmp_path / "s.png").shape == (1, 100_000, 3)
    assert "100000x1 pixels become 6400000x64" in refused(tmp_path / "s.png", 64)
    assert image_file.looks_whole(tmp_path / "s.png") and not image_file.looks_whole(tmp_path / "s.png", 64)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_a_file_that_is_cut_off_does_not_look_whole(kind, tmp_path):
    """Of some kinds none looks whole: such a file is decoded."""
    file = tmp_path / f"a.{kind}"
    Image.fromarray(pixels(30, 30)).save(file)
    assert image_file.looks_whole(file) is (kind in ("jpeg", "png", "gif"))
    file.write_bytes(file.read_bytes()[:-20])
    assert not image_file.looks_whole(file)


# --- Refused


def test_every_damage_has_its_reason_without_the_name_or_a_warning(tmp_path, capfd, recwarn):
    """One of them is a pipe. If it is waited for, a watchdog ends that."""
    with watchdog.pipes_let_go(tmp_path):
        for name, (damage, says) in bad_images.DAMAGES.items():
            file = tmp_path / f"{name}.png"
            damage(file, random.Random(0))
            reason = refused(file)
            assert says in reason and reason and str(tmp_path) not in reason, (name, reason)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_a_phones_photograph_called_jpg_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert refused(tmp_path / "x.jpg") == "HEIC, which Pillow doesn't read; convert it to JPEG or PNG"


def test_pillows_guard_is_the_limit(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    for height, width in ((8, 8), (8, 9), (20, 20)):  # Pillow: silence, a warning, an error
        Image.fromarray(pixels(height, width)).save(tmp_path / f"{width}.png")
    assert read(tmp_path / "8.png").shape == (8, 8, 3)
    assert refused(tmp_path / "9.png") == "72 pixels, at most 64 fit; make it smaller"
    assert refused(tmp_path / "20.png") == "400 pixels, at most 64 fit; make it smaller"
    assert not recwarn.list


def test_a_missing_and_a_forbidden_file_are_refused_with_the_reason(tmp_path, monkeypatch):
    assert refused(tmp_path / "gone.png") == "the file has disappeared"
    (tmp_path / "x.png").write_bytes(bad_images.encoded("PNG"))

    def forbid(path, flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(image_file, "_open", forbid)  # the tests may run as root, who may read everything
    assert refused(tmp_path / "x.png") == "Permission denied"


def test_too_little_memory_is_not_the_files_fault(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(bad_images.encoded("PNG"))

    def open_no_more(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", open_no_more)
    with pytest.raises(MemoryError):
        read(tmp_path / "x.png")


def test_stderr_is_back_after_a_tiff(tmp_path, capfd):
    content = bytearray(bad_images.encoded("TIFF", size=64, compression="tiff_adobe_deflate"))
    content[1000] ^= 1
    (tmp_path / "t.tiff").write_bytes(content)
    assert "damaged" in refused(tmp_path / "t.tiff")
    os.write(2, b"signals_at_step\n")
    assert capfd.readouterr().err == "signals_at_step\n"


def test_a_closed_stderr_stops_nothing():
    reading, writing = os.pipe()
    os.close(reading), os.close(writing)
    with _silenced(writing):
        pass
    with pytest.raises(OSError):
        os.fstat(writing)  # it was not opened by the way
