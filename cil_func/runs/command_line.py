"""The command that trains: flags, order of work, exit status. `train.py` and `python -m cil_func train` are this.

Imports nothing heavy before the flags and the configuration are known to be right.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from cil_func import config as configuration
from cil_func.config import effects, explain
from cil_func.config.parser import Parser
from cil_func.errors import CilError, ConfigError
from cil_func.runs import extension_config, output

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that trains. Returns its exit status; every failure that a person can repair is one line.

    arguments: the flags, without the program's name; None: those of this process.
    """
    output.prepare()
    try:
        options = parse(arguments)
        if options.explain is not None:
            output.show(explain.explain(options.explain))
            return 0
        config = _configuration(options)
        if options.print_config:
            _warn(effects.without_effect(config, configuration.set_keys(options.set)))
            output.show(configuration.to_toml(config), end="")
            return 0
        directory = options.out or default_directory(options, config)
        # late: they import torch, and a mistake above is answered before that
        from cil_func.parallel.launch import launched
        from cil_func.runs import environment, run

        launch = launched()
        unused = effects.without_effect(config, configuration.set_keys(options.set), processes=launch.size)
        warnings = [each for each in (unused, environment.unused_gpu(config, launch)) if each]
        for each in warnings if launch.rank == 0 else ():
            _warn(each)
        if options.dry_run or options.profile:
            return look(run, config, directory, options, launch)
        status = run.run(config, directory, launch, warnings=warnings)
        output.end()  # what can't be printed any more doesn't make a finished run a failed one
        return status
    except CilError as error:  # `run.run` prints those of a run itself
        output.tell(f"train.py: {error}")
        return error.exit_status
    except SystemExit:  # of --help
        output.end()
        raise
    except KeyboardInterrupt:
        output.tell("train.py: interrupted")
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return 1


def _configuration(options: argparse.Namespace) -> configuration.Config:
    """Returns the configuration that the flags ask for: that of --config, or of the run that --extend names."""
    if options.extend is None:
        return configuration.load(options.config or "digits.toml", options.set)
    if options.config is not None:
        raise ConfigError("--config with --extend: the configuration is that of the run; change single values by --set")
    return extension_config.of_run(options.extend, options.set)


def _warn(message: str) -> None:
    """Prints a warning as one line on stderr, for stdout may be read by a program; "" prints nothing."""
    if message:
        output.tell(f"train.py: warning: {message}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the values of the flags. Raises ConfigError for a wrong flag.

    arguments: the flags, without the program's name; None: those of this process.
    """
    parser = Parser(
        prog="train.py", description="Class-incremental learning with WA and its relatives.", allow_abbrev=False
    )
    parser.add_argument("--config", type=named, metavar="NAME", help="a path, else a preset; default digits.toml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides one value; repeatable"
    )
    parser.add_argument("--out", type=folder, metavar="DIR", help="run directory; default runs/<config name>")
    parser.add_argument(
        "--extend", type=folder, metavar="RUN", help="add the classes in --set data.path=FOLDER to a finished run"
    )
    parser.add_argument("--print-config", action="store_true", help="print the configuration as TOML and exit")
    parser.add_argument(
        "--explain", nargs="?", const="", metavar="KEY", help="say what a key means, takes and does; alone: list all"
    )
    parser.add_argument("--dry-run", action="store_true", help="build everything, print the plan, train nothing")
    parser.add_argument(
        "--profile", type=positive, metavar="N", help="trace N training steps into DIR/trace.json, train nothing else"
    )
    return parser.parse_args(arguments)


def named(text: str) -> str:
    """Returns the text behind a flag. Raises ArgumentTypeError if it is empty, as that of an unset variable is."""
    if not text:
        raise argparse.ArgumentTypeError("empty, as an unset variable is; give a name, or leave the flag out")
    return text


def folder(text: str) -> Path:
    """Returns the folder behind a flag. Raises ArgumentTypeError if it is empty, which would be the current folder."""
    return Path(named(text))


def positive(text: str) -> int:
    """Returns the number of steps that follows --profile. Raises ValueError unless it is an integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def default_directory(options: argparse.Namespace, config: configuration.Config) -> Path:
    """Returns runs/<config name>, with a short hash of the configuration behind it when --set changed something.

    With --extend it is runs/<name of the run>-extended-<hash>.

    options: the flags, from `parse`. config: the configuration with --set applied.
    """
    if options.extend is not None:
        return Path("runs") / f"{options.extend.resolve().name}-extended-{configuration.fingerprint(config)}"
    name = configuration.name_of(options.config or "digits.toml")
    try:
        changed = config != configuration.load(options.config or "digits.toml")
    except ConfigError:  # the file alone is not complete: folder.toml wants a path
        changed = True
    return Path("runs") / (f"{name}-{configuration.fingerprint(config)}" if changed else name)


def look(run, config: configuration.Config, directory: Path, options: argparse.Namespace, launch) -> int:
    """Does what --dry-run or --profile asks for. Returns the exit status.

    run: the module `runs.run`, passed since it is imported late. config: the configuration of the command. directory:
    the run directory. options: the flags. launch: the place of this process among several.
    All processes take part in --dry-run. --profile is for one process: with several, rank 0 raises ConfigError and the
    others return 0.
    """
    if options.dry_run:
        return run.plan(config, directory, launch)
    if launch.rank:
        return 0
    if launch.size > 1:
        raise ConfigError(f"--profile with {launch.size} processes; profile one: python train.py --profile ...")
    return run.profile(config, directory, options.profile)


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status.

    It flushes the output; if nobody reads that any more, the exit status stays the same. After a stop by a signal
    (status above 128) it ends without Python's clean-up, which would wait for torch's compilers for seconds.
    """
    output.end()
    if status > 128:
        os._exit(status)
    sys.exit(status)
