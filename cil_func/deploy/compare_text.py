"""The comparison of two models as plain text, in 80 columns: a table of classes, then what it adds up to."""

from collections.abc import Mapping, Sequence
from typing import Any

from cil_func.errors import printable
from cil_func.report.tables import number

_NAME = 24  # characters of a class name
_TAKEN = 8  # pairs of classes that are shown
_COLUMNS = (("images", 6), ("before", 6), ("after", 6), ("change", 6), ("lost", 5), ("found", 5), ("to new", 6))


def text(result: Mapping[str, Any]) -> str:
    """Returns the comparison as lines of text.

    result: from `comparison.compare`, with "models": {"before", "after"}, their paths.
    """
    ordered = sorted(result["classes"], key=order)
    heading = "class".ljust(_NAME) + "".join(title.rjust(width + 1) for title, width in _COLUMNS)
    return "\n".join(
        [
            printable(f"before: {result['models']['before']}"),
            printable(f"after:  {result['models']['after']}"),
            "",
            heading,
            *(_row(each) for each in ordered),
            "",
            "percent and points; lost: images that were right and are wrong now; found: the",
            "other way round; to new: images that are taken for a new class now",
            "",
            *summary(result),
        ]
    )


def order(entry: Mapping[str, Any]) -> tuple:
    """Returns the key by which classes are sorted: kept ones by their change, the worst first, then new, then dropped.

    entry: one of result["classes"]. Equal ones keep their order.
    """
    return (("kept", "new", "dropped").index(entry["kind"]), entry["change"] or 0.0)


def summary(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines that sum a comparison up. result: as in `text`."""
    kept, new, calibration = result["kept"], result["new"], result["calibration"]
    lines = [
        f"{_classes(result, 'kept')}: {number(kept['before'])} -> {number(kept['after'])} % ({signed(kept['change'])})",
        f"  lost {_share(kept, 'negative_flips')}, found {_share(kept, 'positive_flips')}",
    ]
    if new["classes"]:
        lines.append(f"{_classes(result, 'new')}: {number(new['after'])} %")
        lines.append(f"  they took {_share(kept, 'lost_to_new')} of the kept ones")
        lines += [f"    {line}" for line in taken(result["taken"])]
    dropped = [each["name"] for each in result["classes"] if each["kind"] == "dropped"]
    if dropped:
        lines.append(printable(f"dropped: {', '.join(dropped)}"))
    error = calibration["kept"]
    lines.append(
        f"expected calibration error, kept classes: {number(error['before'], 3)} -> {number(error['after'], 3)}"
        + (f"; all classes: {number(calibration['all'], 3)}" if new["classes"] else "")
    )
    return lines


def taken(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns lines like "cup for lamp: 12 (9 were right)" of the most frequent pairs. pairs: result["taken"]."""
    lines = [
        printable(f"{each['from']} for {each['by']}: {each['images']} ({each['were_right']} were right)")
        for each in pairs[:_TAKEN]
    ]
    return lines + ([f"and {len(pairs) - _TAKEN} more pairs"] if len(pairs) > _TAKEN else [])


def signed(value: float | None) -> str:
    """Returns a change in points with its sign and one decimal; "-" for None."""
    return "-" if value is None else f"{value:+z.1f}"


def _classes(result: Mapping[str, Any], kind: str) -> str:
    """Returns how many classes of a kind there are: "7 kept classes (6 without a test image), 6 images"."""
    part = result[kind]
    untested = sum(each["kind"] == kind and not each["images"] for each in result["classes"])
    without = f" ({untested} without a test image)" if untested else ""
    return f"{part['classes']} {kind} class{'es' * (part['classes'] != 1)}{without}, {part['images']:,} images"


def _share(part: Mapping[str, Any], key: str) -> str:
    """Returns how many of the images of a part of the comparison a count is: "12 images (3.4 %)"."""
    share = 100 * part[key] / part["images"] if part["images"] else 0.0
    return f"{part[key]:,} images ({share:.1f} %)"


def _row(entry: Mapping[str, Any]) -> str:
    name = printable(entry["name"] + (f" ({entry['kind']})" if entry["kind"] != "kept" else ""))
    name = name if len(name) <= _NAME else name[: _NAME - 3] + "..."
    flips = (entry["negative_flips"], entry["positive_flips"], entry["lost_to_new"])
    cells = (
        str(entry["images"]), number(entry["before"]), number(entry["after"]), signed(entry["change"]),
        *("-" if value is None else str(value) for value in flips),
    )  # fmt: skip
    return name.ljust(_NAME) + "".join(cell.rjust(width + 1) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
