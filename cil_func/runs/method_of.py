"""Makes the method that a configuration names."""

from cil_func import methods
from cil_func.config import Config, names
from cil_func.errors import ConfigError
from cil_func.methods.base import Method, Options
from cil_func.runs.method_fields import mistake_in, mistake_in_training

_BY_MEANS = "method.name: {} predicts by the nearest mean of exemplars, and"


def method_of(config: Config) -> Method:
    """Returns the method of the [method] table: a built-in one, or what the user's own function returns.

    Both are given the table's keys as `Options`, and method.options as keywords.
    Raises ConfigError for options that don't fit and for a function that can't be found, fails, returns something else
    or a method with a field that can't be.
    """
    table = config.method
    make = names.bind(table.name, table.options, key="method.name", built_in=methods.TABLE, given=("options",))
    method = make(options=Options(**table.model_dump(exclude={"name", "options"})))
    if not isinstance(method, Method):
        raise ConfigError(f"method.name: {table.name} returned {type(method).__name__}; return a methods.Method")
    if fault := mistake_in(method):
        raise ConfigError(f"method.name: {table.name}: {fault}")
    if method.predict == "nme" and not method.uses_memory:
        raise ConfigError(f"{_BY_MEANS.format(table.name)} keeps none; uses_memory=True fits")
    return method


def method_to_train(config: Config) -> Method:
    """Returns what `method_of` does. Raises ConfigError, too, if the rest of the configuration doesn't fit the method.

    For a run that is set up or planned; `method_of` is enough to look at a method, or at a finished run.
    """
    method, size = method_of(config), config.memory.size or config.memory.fixed_per_class
    if fault := mistake_in_training(method):
        raise ConfigError(f"method.name: {config.method.name}: {fault}")
    if method.predict == "nme" and not size:
        raise ConfigError(f"{_BY_MEANS.format(config.method.name)} memory.size is 0; 1 or more fits")
    return method
