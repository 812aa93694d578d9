"""Reading many files: their order, files that are left out, errors that end the reading, too little memory."""

import os

import numpy as np
import pytest
from PIL import Image

from cil_func.data.reading import decoding, image_file
from cil_func.errors import DataError


@pytest.fixture
def files(tmp_path):
    """Ten image files of 8x8. The first pixel of number i is (i, 0, 0)."""
    for index in range(10):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(10)]


@pytest.fixture(params=["one thread", "threads"])
def chunks(request, monkeypatch):
    """Sets chunks of two files, so that ten files make several jobs."""
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    monkeypatch.setattr(decoding, "_THREADED_PIXELS", 0 if request.param == "threads" else 10**9)


def spoil(files, *rows):
    for row in rows:
        open(files[row], "wb").close()


def test_rows_keep_the_files_order(files, chunks):
    (whole, none), (part, _) = decoding.read_all([files, files[7:4:-1]], 0, stop=True)
    assert whole[:, 0, 0, 0].tolist() == list(range(10)) and none == {}
    assert part[:, 0, 0, 0].tolist() == [7, 6, 5]
    assert whole.shape == (10, 8, 8, 3) and whole.dtype == np.uint8
    assert decoding.read_all([files, files], 4, stop=True)[0][0].shape == (10, 4, 4, 3)


def test_unreadable_rows_are_reported_in_order(files, chunks):
    spoil(files, 0, 3, 4, 9)
    (array, unread), (_, other) = decoding.read_all([files, files[1:3]], 0, stop=False)
    assert list(unread) == [0, 3, 4, 9] and set(unread.values()) == {"the file is empty"} and other == {}
    assert decoding.remove_rows(array, unread)[:, 0, 0, 0].tolist() == [1, 2, 5, 6, 7, 8]


def test_the_first_unreadable_row_ends_the_work(files, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    spoil(files, 3, 9)
    asked, real = [], image_file.read
    monkeypatch.setattr(image_file, "read", lambda file, size=0: asked.append(file) or real(file, size))
    (_, unread), (_, other) = decoding.read_all([files, files], 0, stop=True)
    assert list(unread) == [3] and other == {}
    assert asked == [files[0], *files[:4]]  # the first one twice: for its size


def test_none_readable(files):
    spoil(files, *range(10))
    (array, unread), (other, _) = decoding.read_all([files, files], 0, stop=False)
    assert list(unread) == list(range(10)) and len(array) == len(other) == 0
    (_, unread), _ = decoding.read_all([files, files], 0, stop=True)
    assert list(unread) == [0]


def test_the_size_is_that_of_the_first_readable_image(files, chunks):
    spoil(files, 0)
    Image.new("RGB", (9, 8)).save(files[5])
    for stop in (False, True):
        with pytest.raises(DataError, match=r"1\.png is 8x8, .*5\.png is 9x8; set data\.image_size"):
            decoding.read_all([files[1:], files[1:]], 0, stop=stop)
    with pytest.raises(DataError, match=r"1\.png is 8x8, .*5\.png is 9x8"):
        decoding.read_all([files, files], 0, stop=False)


def test_rows_are_left_out_in_place():
    array = np.arange(6)
    kept = decoding.remove_rows(array, {1: "", 4: ""})
    assert kept.tolist() == [0, 2, 3, 5] and kept.base is array
    assert decoding.remove_rows(np.arange(3), {}).tolist() == [0, 1, 2]


def test_an_interrupt_ends_the_jobs_that_wait(files, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 1)
    asked, real = [], image_file.read

    def interrupted(file, size=0):
        asked.append(file)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(file, size)

    monkeypatch.setattr(image_file, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoding.read_all([files * 100, files], 0, stop=False)
    assert len(asked) < 1000


def test_a_set_that_does_not_fit_in_memory_is_refused_before_decoding(files, monkeypatch):
    monkeypatch.setattr(decoding, "available_bytes", lambda: 10**9)
    with pytest.raises(DataError) as caught:
        decoding.read_all([files, files[:2]], 10_000, stop=True)  # 12 x 10,000 x 10,000 x 3 bytes = 3.6 GB
    for part in ("12 images of 10000x10000", "need 3.6 GB", "1.0 GB are available", "data.image_size"):
        assert part in str(caught.value)


def test_the_copies_of_all_processes_are_counted(files, monkeypatch):
    monkeypatch.setattr(decoding, "available_bytes", lambda: 4 * 12 * 8 * 8 * 3)
    splits = [files, files[:2]]
    for copies in (1, 4):
        assert len(decoding.read_all(splits, 0, stop=True, memory=decoding.OWN_MEMORY._replace(copies=copies))) == 2
    with pytest.raises(DataError, match="in each of 5 processes"):
        decoding.read_all(splits, 0, stop=True, memory=decoding.OWN_MEMORY._replace(copies=5))


def test_images_are_stored_in_the_given_memory(files):
    made = []

    def empty(shape):
        made.append(np.zeros(shape, dtype=np.uint8))
        return made[-1]

    (train, _), (test, _) = decoding.read_all([files, files[:2]], 0, stop=True, memory=decoding.ImageMemory(empty))
    assert train is made[0] and test is made[1]


def test_a_containers_limit_is_reduced_by_the_memory_in_use(tmp_path):
    """The limit is 1000 bytes, 700 are used, and 150 of these are cached files, which count as free."""
    assert decoding._left_in_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\nfile 200\nshmem 50\nactive_file 100\ninactive_file 50\n")
    for limit, left in (("1000", 1000 - 700 + 150), ("max", None), ("300", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert decoding._left_in_container(tmp_path) == left


def test_the_memory_available_is_some_and_no_more_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < decoding.available_bytes() <= total
