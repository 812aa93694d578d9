"""The parser of flags that all commands use."""

import argparse
from typing import NoReturn

from cil_func.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError, of one line, for wrong flags.

    argparse's own prints the whole usage and ends the process.
    """

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")
