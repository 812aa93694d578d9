"""The one door to all commands: `python -m cil_func COMMAND`; without a command it lists them."""

import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from cil_func.config.messages import nearest, shown
from cil_func.errors import DiskError
from cil_func.runs import output
from cil_func.runs.command_line import leave


class Command(NamedTuple):
    """A command of the package.

    target: "module:function", imported when the command is used. The function takes the arguments, a list of strings,
    and returns the exit status. does: one line for a person.
    """

    target: str
    does: str


COMMANDS = {
    "train": Command("cil_func.runs.command_line:main", "trains; the flags of train.py"),
    "report": Command("cil_func.report.__main__:main", "draws the report of a run again, or compares several runs"),
    "predict": Command("cil_func.deploy.predict:main", "names the classes of image files with a finished run"),
    "calibrate": Command("cil_func.deploy.calibrate:main", "makes a model's percentages mean what they say"),
    "export": Command("cil_func.deploy.export:main", "writes a model as a file that works without this package"),
    "tutorial": Command("cil_func.tutorial.command:main", "teaches class-incremental learning, chapter by chapter"),
    "sweep": Command("cil_func.studies.sweep:main", "trains many runs: grids, seeds, class orders; their table"),
    "reproduce": Command("cil_func.studies.reproduce:main", "trains published rows and puts ours beside them"),
    "compare": Command("cil_func.deploy.compare:main", "says what got better and worse between two finished runs"),
    "edit": Command("cil_func.deploy.edit:main", "drops or renames classes of a finished run, into a new directory"),
    "diff": Command("cil_func.studies.diff:main", "says what differs between two configurations or runs"),
    "methods": Command("cil_func.studies.methods:main", "lists the methods: what each keeps and needs, its numbers"),
    "schema": Command("cil_func.config.json_schema:main", "prints the JSON schema of a configuration"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status; 2, and one line on stderr, if there is no such command.

    arguments: the command and its own arguments; None: those of this process. Without any, or with --help, it lists the
    commands and returns 0.
    """
    output.prepare()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(listed())
        return 0
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(COMMANDS)}"
        output.tell(f"cil_func: {shown(name)} is no command; {hint}")
        return 2
    module, _, function = COMMANDS[name].target.partition(":")
    return getattr(import_module(module), function)(rest)


def listed() -> str:
    """Returns the text that lists the commands, one a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(["python -m cil_func COMMAND ...", "", *lines, "", "COMMAND --help lists what a command takes."])


def command() -> NoReturn:
    """The command `cil-func` of an installed package: runs this process's command and ends with its exit status.

    If nobody reads what it prints any more (`| head`), it ends with the status of what it has found until then; that is
    0 where the command itself doesn't say. If stdout can't be written, as on a full disk, it ends with one line and 74.
    """
    status = 0
    try:
        status = main()
        output.flush(status)
    except BrokenPipeError as error:
        output.lose(sys.stdout)
        status = getattr(error, "exit_status", status)
    except DiskError as error:
        output.tell(f"cil_func: {error}")
        status = status or error.exit_status
    except SystemExit:  # of --help
        output.end()
        raise
    leave(status)


if __name__ == "__main__":
    command()
