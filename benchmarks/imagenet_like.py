"""Makes a folder like ImageNet's from small images: `python -m benchmarks.imagenet_like CIFAR OUT`.

CIFAR: a folder with train/CLASS/ and test/CLASS/. OUT gets train/CLASS/*.JPEG and val/CLASS/*.JPEG: each image is one
of the small ones, enlarged so that its sides are of 100 to 500 pixels, with noise, so that decoding it takes as long as
a photograph. The same arguments make the same files.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (100, 500)  # pixels, the least and the most
_NOISE = 12.0  # standard deviation, of 255


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", type=Path, metavar="CIFAR")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--train", type=int, default=20, metavar="N", help="training images a class")
    parser.add_argument("--val", type=int, default=5, metavar="N", help="test images a class")
    options = parser.parse_args(arguments)
    print(f"{write(options.source, options.out, train=options.train, val=options.val)} images in {options.out}")
    return 0


def write(source: Path, out: Path, *, train: int, val: int, sides: tuple[int, int] = SIDES) -> int:
    """Writes the folder `out`, which must not exist. Returns how many images it has.

    source: a folder with train/CLASS/ and test/CLASS/. train, val: how many images a class has in each, at most.
    sides: the smallest and the largest side in pixels.
    """
    written = 0
    for split, name, count in (("train", "train", train), ("test", "val", val)):
        for number, folder in enumerate(sorted(path for path in (source / split).iterdir() if path.is_dir())):
            own = out / name / folder.name
            own.mkdir(parents=True)
            for index, file in enumerate(sorted(folder.iterdir())[:count]):
                _enlarged(file, np.random.default_rng([number, index, len(name)]), sides).save(
                    own / f"{index:05d}.JPEG", quality=90
                )
                written += 1
    return written


def _enlarged(file: Path, draw: np.random.Generator, sides: tuple[int, int]) -> Image.Image:
    size = tuple(int(side) for side in draw.integers(sides[0], sides[1] + 1, 2))
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((pixels + draw.normal(0, _NOISE, pixels.shape)).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
