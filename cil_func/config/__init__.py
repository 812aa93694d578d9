"""The configuration of a run: its keys, presets, mistakes, and how it is read and written."""

from cil_func.config.load import (
    Config,
    fingerprint,
    from_dict,
    load,
    name_of,
    of_run,
    presets,
    set_keys,
    to_dict,
    to_toml,
)

__all__ = [
    "Config", "fingerprint", "from_dict", "load", "name_of", "of_run", "presets", "set_keys", "to_dict", "to_toml",
]  # fmt: skip
