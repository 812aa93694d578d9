"""Makes the method that a configuration names."""

from cil_func import methods
from cil_func.config import Config, names
from cil_func.errors import ConfigError
from cil_func.methods.base import Method, Options
from cil_func.runs.method_fields import mistake_in


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
    if method.predict == "nme" and not (method.uses_memory and (config.memory.size or config.memory.fixed_per_class)):
        missing = "memory.size is 0; 1 or more fits" if method.uses_memory else "keeps none; uses_memory=True fits"
        raise ConfigError(f"method.name: {table.name} predicts by the nearest mean of exemplars, and {missing}")
    return method
