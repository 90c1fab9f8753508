"""Translates JSON Schemas, as zod and pydantic write them, to the subset that llguidance constrains.

A keyword that llguidance does not know is removed from the grammar. The finished completion is validated against the original schema: such
a keyword is still enforced, but a completion that violates it fails.
"""

from __future__ import annotations

from typing import Any

from handlers.chat.structured.walk import children

_FORMATS = frozenset({"date-time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid"})
"""The formats that llguidance constrains. Any other one is an annotation, as JSON Schema says (2020-12, Validation, section 7)."""

_CHECKED_AFTERWARDS = frozenset(
    {
        "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "minContains", "not",
        "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip


def to_grammar_schema(schema: Any, patterns: frozenset[str]) -> Any:
    """Translates a schema.

    Args:
        schema: A valid schema. It is not modified.
        patterns: The patterns that llguidance can constrain.
    """
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for path, child in children(schema):
        _replace(result, path, to_grammar_schema(child, patterns))
    _follow_property_names(result)
    for key in _CHECKED_AFTERWARDS & result.keys():
        del result[key]
    if result.get("format") not in _FORMATS:
        result.pop("format", None)
    if "pattern" in result and result["pattern"] not in patterns:
        del result["pattern"]
    return result


def _replace(schema: dict[str, Any], path: tuple[str | int, ...], child: Any) -> None:
    if len(path) == 1:
        schema[str(path[0])] = child
        return
    key, inner = str(path[0]), path[1]
    container = schema[key]
    copied: Any = dict(container) if isinstance(container, dict) else list(container)
    copied[inner] = child
    schema[key] = copied


def _follow_property_names(schema: dict[str, Any]) -> None:
    """Expresses the keys of a record (`z.record`, `dict[Literal, …]`) as properties or as a pattern, where it has no other properties."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or schema.keys() & {"properties", "patternProperties"}:
        return
    values, allowed = schema.get("additionalProperties", True), names.get("enum", [names["const"]] if "const" in names else None)
    if isinstance(allowed, list):
        schema["properties"] = {name: values for name in allowed if isinstance(name, str)}
        schema["additionalProperties"] = False
    elif isinstance(pattern := names.get("pattern"), str):
        schema["patternProperties"] = {pattern: values}
        schema["additionalProperties"] = False
