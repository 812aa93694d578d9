"""What is said of images that are odd, and sound: turned by EXIF, transparent, dark."""

from collections import Counter
from collections.abc import Iterator

from cil_func.data.reading.pixels import DARK, TRANSPARENT, TURNED, Rules


def warnings(counts: Counter, rules: Rules, of: str = "") -> Iterator[str]:
    """Yields one line for each of TURNED, TRANSPARENT and DARK that is true of some images.

    counts: {one of the three: how many images it is true of}. rules: what was done with such images. of: of which
    images, in words; "": of all.
    """
    if turned := counts[TURNED]:
        done = "turned upright" if rules.upright else "left as stored"
        yield f"{_images(turned)}{of} with an orientation in EXIF: {done} (data.exif_orientation)"
    if transparent := counts[TRANSPARENT]:
        shown = "the colours stored there" if rules.background is None else f"the colour {list(rules.background)}"
        yield f"{_images(transparent)}{of} with transparent parts: these show {shown} (data.background)"
    if dark := counts[DARK]:
        yield (
            f"{_images(dark)}{of} of 16 bits a value, dark: only the lowest quarter of the range is used; "
            "if the files hold 10, 12 or 14 bits a value, scale them to the full range"
        )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
