"""The parser of flags that all commands use."""

import argparse
from typing import NoReturn

from cil_func.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises ConfigError, one line, for wrong flags, where argparse would print the whole usage and end the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")
