"""The command that trains: `torchrun train.py --config cifar.toml`, or `python train.py ...` without a launcher.

Its flags are in `cil_func/runs/command_line.py`; `python -m cil_func train` is the same command.
"""

from cil_func import config as configuration
from cil_func.runs.command_line import default_directory, leave, main, parse

__all__ = ["configuration", "default_directory", "leave", "main", "parse"]

if __name__ == "__main__":
    leave(main())
