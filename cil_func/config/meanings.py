"""What each key means, in words: the strings under the keys in `schema.py`, read from its source.

`train.py --explain`, the table in README.md and the JSON schema all print them.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cil_func.config import schema
from cil_func.config.messages import hints_of


@cache
def of_keys() -> dict[str, str]:
    """Returns {dotted key: its meaning}, in the schema's order. A table without a string has its class's docstring."""
    texts = dict(_texts(ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))))
    found = {}
    for key, hint in hints_of(schema.Config).items():
        holder, name = _holder(key)
        own = next((texts[each.__name__, name] for each in holder.__mro__ if (each.__name__, name) in texts), "")
        found[key] = own or _of_table(hint)
    return found


def _of_table(table: type[BaseModel]) -> str:
    """Returns the first paragraph of a table's docstring, "[run]: where ...", without the table's name."""
    text = _joined((table.__doc__ or "").partition("\n\n")[0]).partition(": ")[2]
    return text[:1].upper() + text[1:]


def _holder(key: str) -> tuple[type, str]:
    """Returns (the class of the schema that has a dotted key, the key's last part)."""
    *tables, name = key.split(".")
    holder: Any = schema.Config
    for table in tables:
        holder = holder.model_fields[table].annotation
    return (schema.PhaseOptim if holder is schema.PartOfOptim else holder), name


def _texts(module: ast.Module) -> Iterator[tuple[tuple[str, str], str]]:
    """Yields ((class, key), text) for each string that stands under a key in the source of `schema.py`."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                        yield (node.name, key), _joined(text)


def _joined(text: str) -> str:
    return " ".join(text.split())
