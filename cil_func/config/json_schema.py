"""The JSON schema of a configuration (draft 2020-12), for editors and other programs: `python -m cil_func schema`."""

import json
import sys
from contextlib import suppress
from typing import Any

from cil_func.config import explain, meanings
from cil_func.config.parser import Parser
from cil_func.config.schema import Config
from cil_func.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Prints the schema, or with --markdown the table of keys of README.md; returns the exit status.

    arguments: the flags; None: those of this process.
    """
    parser = Parser(prog="python -m cil_func schema", description=__doc__, allow_abbrev=False)
    parser.add_argument("--markdown", action="store_true", help="print the table of all keys instead")
    try:
        options = parser.parse_args(arguments)
    except ConfigError as error:
        with suppress(OSError):  # nobody reads it
            print(f"schema: {error}", file=sys.stderr)
        return error.exit_status
    print(explain.readme_table() if options.markdown else json.dumps(make(), indent=2) + "\n", end="")
    return 0


def make() -> dict[str, Any]:
    """Returns the JSON schema of a configuration: keys, types, ranges, words, defaults and meanings.

    What only code can check is missing: which keys go together, RandAugment's policies, the files behind names.
    """
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    _describe(schema, definitions, "")
    part = definitions["PartOfOptim"]
    part["properties"] = {key: _without_null(field) for key, field in part["properties"].items()}
    definitions["Optim"]["additionalProperties"] = {"$ref": "#/$defs/PartOfOptim"}
    definitions["Optim"]["propertyNames"] = {"pattern": "^[a-z][a-z0-9_]*$"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Configuration of cil_func"}


def _describe(table: dict[str, Any], definitions: dict[str, Any], prefix: str) -> None:
    """Adds the meaning of each key to a table's schema, in place, and to the schemas of the tables in it.

    table: the JSON schema of one table. definitions: the schemas of all tables, by class name. prefix: of the table's
    keys, like "optim."; "" for the whole configuration.
    """
    for name, field in table["properties"].items():
        field["description"] = meanings.of_keys()[prefix + name]
        field.pop("title", None)
        if "$ref" in field:
            field.pop("default")  # each key of the table has its own
            _describe(definitions[field["$ref"].rpartition("/")[2]], definitions, f"{prefix}{name}.")


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a key of [optim.first_phase] or [optim.STAGE] without the type null and the default null.

    TOML has no null: a key that is left out means the same.
    """
    members = [member for member in field["anyOf"] if member != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return rest | (members[0] if len(members) == 1 else {"anyOf": members})
