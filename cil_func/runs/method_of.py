"""Makes the method that a configuration names."""

from cil_func import methods
from cil_func.config import Config, names
from cil_func.errors import ConfigError
from cil_func.methods.base import Method, Options


def method_of(config: Config) -> Method:
    """Returns the method of the [method] table: a built-in one, or what the user's own function returns.

    Both are given the table's keys as `Options`, and method.options as keywords.
    Raises ConfigError for options that don't fit and for a function that can't be found, fails or returns something
    else.
    """
    table = config.method
    make = names.bind(table.name, table.options, key="method.name", built_in=methods.TABLE, given=("options",))
    method = make(options=Options(**table.model_dump(exclude={"name", "options"})))
    if not isinstance(method, Method):
        raise ConfigError(f"method.name: {table.name} returned {type(method).__name__}; return a methods.Method")
    return method
