"""The command `python -m cil_func methods`: what each method keeps and needs, its published number and ours."""

import argparse
import json
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import torch

from cil_func import config as configuration
from cil_func import memory, methods, tree
from cil_func.config import Config
from cil_func.config.messages import shown
from cil_func.config.parser import Parser
from cil_func.data import scenario
from cil_func.errors import CilError, ConfigError
from cil_func.methods.base import Method
from cil_func.methods.extra import LOGITS
from cil_func.report import published
from cil_func.runs import load_data, output
from cil_func.runs.method_of import method_of
from cil_func.runs.network_of import known_size, network_of
from cil_func.studies import numbers_by_method, published_rows

NAME = "methods"
CLASSES = {"digits": 10, "cifar100": 100, "imagenet100": 100, "imagenet1000": 1000, "cub200": 200, "core50": 50}
UNKNOWN = "not recorded"
COLUMNS = ("method", "keeps", "MB", "needs", "published", "ours", "what it is")


@dataclass(frozen=True)
class Row:
    """What is said of one method. average / last: top-1 in percent, average incremental and after the last phase.

    name: its name. does: the first line of its file, with its source. kept: see `memory.in_bytes`, after the last
    phase; None if the network can't be made. keeps: that in words. needs: what it needs besides. published: average /
    last, ~ before uncertain ones, and where they stand, in words; None if there are none. ours:
    the same of runs that are recorded.
    """

    name: str
    does: str
    kept: dict[str, int] | None
    keeps: str
    needs: str
    published: str | None
    ours: str | None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status: 0, or 2 for a wrong flag or configuration.

    arguments: the flags, without the program's name; None: those of this process.
    """
    parser = Parser(prog="python -m cil_func methods", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="cifar-b0-10", metavar="NAME", help="a preset or TOML file: of what size")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one of its values")
    parser.add_argument("--classes", type=int, default=0, metavar="K", help="of image folders and data of your own")
    own = numbers_by_method.FOLDER
    parser.add_argument("--records", type=Path, default=own, metavar="DIR", help="of benchmarks.record")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    try:
        options: argparse.Namespace = parser.parse_args(arguments)
        config = configuration.load(options.config, options.set)
        found = rows(config, classes=options.classes, folder=options.records)
    except CilError as error:
        output.tell(f"{NAME}: {error}")
        return error.exit_status
    if options.json:
        text = json.dumps([vars(row) for row in found], indent=2, ensure_ascii=False)
    else:
        text = markdown(found) if options.markdown else "\n\n".join(map(_block, found))
    output.show(text)
    return 0


def rows(config: Config, *, classes: int = 0, folder: Path | None = None) -> list[Row]:
    """Returns a row for each built-in method, as a run of this configuration has it.

    config: whose method.name and method.options are not used. classes: how many the data have; 0: those that a data
    set by its name has. folder: of the records of runs; None: there are none. Raises ConfigError if the number of
    classes, or their images' size, isn't known.
    """
    num_classes, size = classes or CLASSES.get(config.data.name, 0), known_size(config)
    if num_classes < 1:
        raise ConfigError(f"data.name = {shown(config.data.name)}: the number of classes isn't known; give --classes")
    if size is None:
        raise ConfigError("data.image_size: 0, so the images' size isn't known; give it, as --set data.image_size=32")
    data = load_data.with_increments(config, num_classes).data
    sizes = scenario.increments(num_classes, initial_increment=data.initial_increment, increment=data.increment)
    ours = numbers_by_method.of(folder, config, sizes) if folder else {}
    return [_row(name, config, sizes, size, ours.get(name)) for name in methods.TABLE]


def _row(name: str, config: Config, sizes: list[int], size: tuple[int, int], ours: str | None) -> Row:
    table = config.method.model_copy(update={"name": name, "options": type(config.method.options)()})
    config = config.model_copy(update={"method": table})
    method = method_of(config)
    number = published.protocol(configuration.to_dict(config), sizes, with_memory=method.uses_memory)
    theirs = published.of_method(number, name)
    try:
        kept = _kept(method, config, sizes, size)
    except ConfigError:  # the backbone has no feature maps, which `needs` says
        kept = None
    return Row(
        name=name,
        does=(import_module(methods.TABLE[name].__module__).__doc__ or "").partition("\n")[0],
        kept=kept,
        keeps=_keeps(method, kept, sizes),
        needs=", ".join(_needs(method)) or "-",
        published=f"{published_rows.numbers(theirs)}, {theirs.source}" if theirs else None,
        ours=ours,
    )


def _kept(method: Method, config: Config, sizes: list[int], size: tuple[int, int]) -> dict[str, int]:
    """Returns what is kept after the last phase, see `memory.in_bytes`, if each class has images enough.

    `joint`, which keeps all images, counts none: their number isn't known here.
    """
    classes = sum(sizes)
    network = network_of(config, method, num_classes=classes, num_phases=len(sizes), image_size=size)
    model = network.drawn(0, sizes)
    quota = memory.quota(classes, size=config.memory.size, fixed_per_class=config.memory.fixed_per_class)
    images = quota * classes if method.uses_memory else 0
    padded = tree.cast(network.pad(model.params), device="meta")  # where numbers have sizes alone
    extra = method.extra.start(padded) if method.extra else {}
    if method.replay and method.replay.stores:  # of each exemplar those of the classes that were seen with it
        shapes = [(quota * new, seen) for new, seen in zip(sizes, accumulate(sizes), strict=True)]
        extra = {**extra, LOGITS: [torch.empty(shape, device="meta") for shape in shapes]}
    return memory.in_bytes(images, size, params=model.params, extra=extra)


def _keeps(method: Method, kept: dict[str, int] | None, sizes: list[int]) -> str:
    parts = ["all images"] if method.rows == "all" else ["exemplars"] if method.uses_memory else []
    many = {"backbone": f"{len(sizes)} backbones", "stage": f"a backbone with {len(sizes)} last stages"}
    parts.append(many.get(method.grow, "the model") + (" and one beside them" if method.beside else ""))
    if kept and kept["remembered"]:
        parts.append(f"numbers of {kept['remembered'] / 1e6:.1f} MB")
    return ", ".join(parts)


def _needs(method: Method) -> list[str]:
    """Returns what a method needs besides images and the model, in words."""
    stages = [stage.name for stage in method.stages]
    needs = ["the last model as teacher"] if method.uses_teacher else []
    needs += ["a backbone that shows its maps"] if method.taps or not method.final_relu else []
    needs += ["a backbone whose last stage can be added again"] if method.grow == "stage" else []
    needs += ["exemplars beside each batch"] if method.replay else []
    needs += [f"{method.views} views of each image"] if method.views > 1 else []
    needs += ["two classes a phase"] if method.fault_of([2, 1]) else []
    return needs + [f"the stage {name}" for name in stages]


def _cells(row: Row) -> tuple[str, ...]:
    megabytes = "-" if row.kept is None else f"{row.kept['total'] / 1e6:.1f}"
    return (
        row.name, row.keeps, megabytes, row.needs, row.published or UNKNOWN, row.ours or UNKNOWN, row.does,
    )  # fmt: skip


def _block(row: Row) -> str:
    """Returns the lines about one method, for a terminal."""
    name, keeps, megabytes, needs, *numbers, does = _cells(row)
    said = {"keeps": f"{keeps}: {megabytes} MB in all", "needs": needs} | dict(zip(COLUMNS[4:6], numbers, strict=True))
    return "\n".join([f"{name}: {does}", *(f"  {key:<10} {value}" for key, value in said.items())])


def markdown(found: list[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *((f"`{row.name}`", *_cells(row)[1:]) for row in found)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)
