"""What a person can mend: each error is one line, and knows the exit status of `train.py`."""


class CilError(Exception):
    """A failure with a one-line message for a person; `exit_status` is what the command answers."""

    exit_status = 1


class ConfigError(CilError):
    """Whatever the TOML and the flags alone can show."""

    exit_status = 2


class DataError(CilError):
    """Whatever needs the data: a missing folder, a broken image, increments or an order that don't fit."""

    exit_status = 3


class NonFiniteError(CilError):
    """A loss or gradient that is not finite."""

    exit_status = 4
