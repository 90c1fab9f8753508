"""Walks the subschemas of a JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose subschemas apply to the same value as the schema that has them."""

_SINGLE = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems"}
    | {"unevaluatedProperties"}
)
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


def children(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Yields the direct subschemas of a schema with their paths. Values that are not schemas, such as those of `enum`, are skipped."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if isinstance(value, dict) and key in _MAPS:
            yield from (((key, name), child) for name, child in value.items())
        elif isinstance(value, list) and key in _LISTS:
            yield from (((key, index), child) for index, child in enumerate(value))
        elif key in _SINGLE:
            yield (key,), value


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields a schema and all its subschemas, innermost first."""
    for step, child in children(schema):
        yield from subschemas(child, (*path, *step))
    if isinstance(schema, dict):
        yield path, schema


def target(root: Any, reference: object) -> Any:
    """Returns the subschema that a local `$ref` points to.

    Raises:
        LookupError: The reference is not local, or points nowhere.
    """
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise LookupError(reference)
    node = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node[int(name)] if isinstance(node, list) and name.isdigit() else node[name]
    return node


def show(path: Path) -> str:
    """Formats a path: `properties.title.allOf[0]`; an empty string for the whole schema."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")[:120]
