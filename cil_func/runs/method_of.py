"""The method that a configuration names."""

from cil_func import methods
from cil_func.config import Config
from cil_func.methods.base import Method, Options


def method_of(config: Config) -> Method:
    """Returns the method of [method], with its options. Raises ConfigError for options that don't fit."""
    fields = config.method.model_dump(exclude={"name", "options"})
    return methods.make(config.method.name, Options(**fields), getattr(config.method, "options", {}))
