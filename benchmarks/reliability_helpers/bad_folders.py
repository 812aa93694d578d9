"""Makes folders of images with something wrong, with what `train.py` has to answer: exit status 3 and one line.

One image is damaged in one of many ways, under one of many kinds of name (other alphabets, long paths, bytes that are
not UTF-8). Or the folders themselves are wrong, as people get them wrong.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.reliability_helpers.bad_images import DAMAGES, encoded


class BadFolder(NamedTuple):
    """A folder of images with something wrong.

    what: its name. make: called with a path, makes the folder there and returns the value for data.path. says: texts
    that the answer must contain. overrides: further settings for --set.
    """

    what: str
    make: Callable[[Path], str]
    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    def flags(self, root: Path) -> list[str]:
        """Makes the folder and returns the flags for train.py."""
        values = ("data.name=image_folder", f"data.path={json.dumps(self.make(root))}", *self.overrides)
        return [flag for value in values for flag in ("--set", value)]


def folders(count: int = 100, seed: int = 0) -> list[BadFolder]:
    """Returns `count` bad folders in an order drawn from the seed: all of AROUND, then damaged images."""
    draw = random.Random(seed)
    found = [BadFolder(what, *mistake) for what, mistake in AROUND.items()]
    places = list(PLACES)
    while len(found) < count:
        draw.shuffle(places)
        for number, damage in enumerate(draw.sample(sorted(DAMAGES), len(DAMAGES))):
            place = places[number % len(places)]
            split = draw.choice(["train", "test"])
            found.append(damaged(damage, place, split, draw.randrange(2**31)))
    found = found[:count]
    draw.shuffle(found)
    return found


def good(root: Path, *, classes: tuple[str, ...] = ("ant", "cat"), size: int = 8) -> str:
    """Makes a correct folder, with three training and two test images of each class. Returns its path as text.

    root: where. size: pixels of an image's side.
    """
    for split, count in (("train", 3), ("test", 2)):
        for name in classes:
            own = root / split / name
            own.mkdir(parents=True)
            for number in range(count):
                (own / f"{number}.png").write_bytes(encoded("PNG", size=size, seed=number))
    return str(root)


# {kind of name: (the image's path below its class folder, how a message has to show it)}
PLACES: dict[str, tuple[bytes, str]] = {
    "plain": (b"1.png", "1.png"),
    "first": (b"0.png", "0.png"),
    "nested": (b"a/b/c.jpeg", "a/b/c.jpeg"),
    "other alphabets": ("Bär/猫 🐈.PNG".encode(), "Bär/猫 🐈.PNG"),
    "long name": (b"n" * 251 + b".png", "n" * 251 + ".png"),
    "long path": (b"/".join([b"d" * 200] * 15) + b"/1.png", "d" * 200 + "/1.png"),
    "no UTF-8": (b"caf\xe9.png", "caf\\udce9.png"),
    "line break": (b"a\nb\r.png", "a\\nb\\r.png"),
    "escape sequence": (b"\x1b[31mred.png", "\\x1b[31mred.png"),
    "quotes": (b"it's \"1\".png", "it's \"1\".png"),
}


def damaged(damage: str, place: str, split: str = "train", seed: int = 0) -> BadFolder:
    """Returns a folder in which one image of the class "cat" is damaged.

    damage: a key of DAMAGES. place: a key of PLACES, the image's name. split: "train" or "test". seed: of the damage.
    """
    name, shown = PLACES[place]
    make_damage, reason = DAMAGES[damage]

    def make(root: Path) -> str:
        good(root)
        file = root / split / "cat" / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        make_damage(file, random.Random(seed))
        return str(root)

    return BadFolder(f"{damage}, {place}, {split}", make, (f"{split}/cat/", shown, reason))


def _after(change: Callable[[Path], object]) -> Callable[[Path], str]:
    """Returns a function that makes a correct folder, changes it, and returns its path."""

    def make(root: Path) -> str:
        good(root)
        change(root)
        return str(root)

    return make


def _emptied(*folders: str) -> Callable[[Path], object]:
    """Returns a function that empties every image file in these folders."""

    def change(root: Path) -> None:
        for folder in folders:
            for file in (root / folder).rglob("*.png"):
                file.write_bytes(b"")

    return change


def _without_images(root: Path) -> None:
    own = root / "train/cat"
    for file in own.iterdir():
        file.rename(own / f".{file.name}")
    (own / "labels.txt").write_text("0.png cat")


def _flat(root: Path) -> None:
    for name in ("ant", "cat"):
        for file in (root / "train" / name).iterdir():
            file.rename(root / "train" / f"{name}{file.name}")
        (root / "train" / name).rmdir()


def _too_deep(root: Path) -> None:
    """Makes folders so deep that the path of the image in the last one is too long to be opened."""
    folder = os.open(root / "train/cat", os.O_RDONLY)
    for _ in range(17):  # of 250 bytes each; a path ends at 4,096
        os.mkdir("d" * 250, dir_fd=folder)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    with open("0.png", "wb", opener=lambda path, flags: os.open(path, flags, dir_fd=folder)) as file:
        file.write(encoded("PNG"))
    os.close(folder)


def _link_to_itself(root: Path) -> str:
    root.mkdir()
    (root / "me").symlink_to("me")
    return str(root / "me")


def _lone(root: Path) -> str:
    return good(root, classes=("cat",))


# {what is wrong: (make, says[, overrides])}, see `BadFolder`
AROUND: dict[str, tuple] = {
    "no such folder": (lambda root: str(root / "nowhere"), ("nowhere doesn't exist",)),
    "nobody's home": (lambda root: "~nobody-by-this-name/images", ("~nobody-by-this-name/images doesn't exist",)),
    "path too long": (lambda root: str(root / ("x" * 5000)), ("xxx can't be opened (File name too long)",)),
    "path of a link to itself": (_link_to_itself, ("me can't be opened (Too many levels of symbolic links)",)),
    "path of a file": (lambda root: good(root) + "/train/ant/0.png", ("train/ant/0.png is a file",)),
    "path below a file": (lambda root: good(root) + "/train/ant/0.png/x", ("(Not a directory)",)),
    "path of a class": (lambda root: good(root) + "/train/ant", ("no train/ folder", "it holds no folders")),
    "no train": (_after(lambda root: (root / "train").rename(root / "training")), ("no train/ folder", "training")),
    "no test": (_after(lambda root: (root / "test").rename(root / "exam")), ("no test/ or val/ folder", "exam")),
    "no classes": (_after(_flat), ("no class folders",)),
    "one class": (_lone, ("a single class, 'cat'",)),
    "class without test images": (_after(lambda root: (root / "train/bee").mkdir()), ("'bee'", "not in", "/test;")),
    "class without training images": (_after(lambda root: (root / "test/bee").mkdir()), ("'bee'", "/train;")),
    "class without images": (_after(_without_images), ("train/cat holds no images", ".jpeg .png")),
    "class of a link to nowhere": (
        _after(lambda root: (root / "train/bee").symlink_to("gone")), ("train/bee is a link that leads nowhere",)
    ),
    "class of a link to itself": (
        _after(lambda root: (root / "train/bee").symlink_to("bee")), ("train/bee is a link that leads nowhere",)
    ),
    "link back": (_after(lambda root: (root / "test/cat/back").symlink_to("..")), ("test/cat/back: ", "link")),
    "too deep": (_after(_too_deep), ("train/cat/ddd", "File name too long")),
    "two sizes": (
        _after(lambda root: (root / "test/ant/1.png").write_bytes(encoded("PNG", size=9))),
        ("train/ant/0.png is 8x8", "test/ant/1.png is 9x9", "data.image_size"),
    ),
    "a strip": (
        _after(lambda root: Image.new("RGB", (1, 100_000)).save(root / "train/cat/1.png")),
        ("train/cat/1.png", "1x100000 pixels", "too long a strip"),
        ("data.image_size=64",),
    ),
    "a class all skipped": (
        _after(_emptied("test/cat")), ("'cat'", "test/cat/0.png: the file is empty"), ("data.on_error=skip",)
    ),
    "everything skipped": (
        _after(_emptied("train", "test")), ("'ant'", "train/ant/0.png: the file is empty"), ("data.on_error=skip",)
    ),
    "not ImageNet": (
        _after(lambda root: None), ("has 2 class folders, imagenet100 has 100",), ("data.name=imagenet100",)
    ),
}  # fmt: skip
