"""Describes the constraints of a field in words, from its JSON Schema, so that messages, documentation and validators agree."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

# The bound of fields that declare none: beyond it neighbouring integers are the same float.
_LARGEST = 2**53
_NUMERAL = re.compile(r"-?\d{1,15}(\.\d{1,15})?")


def group_thousands(number: int) -> str:
    """Formats an integer with spaces between groups of three digits: `10 000`."""
    return f"{number:,}".replace(",", " ")


def resolve(node: Schema, schema: Schema) -> Schema:
    """Follows references, and unwraps an optional type."""
    while True:
        options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        elif len(options) == 1:
            node = options[0]
        else:
            return node


def describe_constraint(node: Schema, schema: Schema) -> str:
    """Describes what a JSON Schema node allows, to complete the sentence "must be …".

    Args:
        node: The node.
        schema: The whole schema, for references.
    """
    node = resolve(node, schema)
    if "allowed" in node:
        return str(node["allowed"])
    if "enum" in node or "const" in node:
        return _listed(node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return " or ".join(describe_constraint(option, schema) for option in node["anyOf"] if option.get("type") != "null")
    if node.get("type") == "array":
        return f"a list{_items(node)}, each {describe_constraint(node['items'], schema)}"
    return _simple(node)


def _simple(node: Schema) -> str:
    match node.get("type"):
        case "integer":
            return "a whole number" + _range(node) + _step(node)
        case "number":
            return "a number" + _range(node)
        case "boolean":
            return "true or false"
        case "string":
            return "a string" + _length(node)
        case "object" if "properties" in node:
            return f"an object with {', '.join(node['properties'])}"
    return "an object"


def _listed(values: Sequence[object]) -> str:
    names = [f'"{value}"' if isinstance(value, str) else str(value) for value in values]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def _range(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        return f" above {node['exclusiveMinimum']:g}" + (f", at most {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    return f" of at least {_number(low)}" if low is not None else ""


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _step(node: Schema) -> str:
    return f", a multiple of {node['multipleOf']}" if "multipleOf" in node else ""


def _length(node: Schema) -> str:
    low, high = node.get("minLength", 0), node.get("maxLength")
    if high is not None:
        return f" of {low} to {group_thousands(high)} characters" if low else f" of at most {group_thousands(high)} characters"
    return " that is not empty" if low else ""


def _items(node: Schema) -> str:
    low, high = node.get("minItems", 0), node.get("maxItems")
    if high is not None:
        return f" of {low} to {high}" if low else f" of at most {high}"
    return f" of at least {low}" if low else ""


def nearest(node: Schema, value: object) -> str | None:
    """Returns the allowed number or word that is nearest to a value, if there is one.

    Args:
        node: A JSON Schema node without references.
        value: Any value.
    """
    if isinstance(value, str) and _NUMERAL.fullmatch(value) and node.get("type") in ("integer", "number"):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return _nearest_number(node, value)
    names = [name for name in node.get("enum", ()) if isinstance(name, str)]
    if isinstance(value, str) and len(value) <= 64:
        return next(iter(difflib.get_close_matches(value.lower(), names, n=1)), None)
    return None


def _nearest_number(node: Schema, value: float) -> str | None:
    numbers = [number for number in node.get("enum", ()) if isinstance(number, int)]
    if numbers:
        return str(min(numbers, key=lambda number: abs(number - value)))
    if node.get("type") not in ("integer", "number") or "exclusiveMinimum" in node:
        return None
    low, high = node.get("minimum", -_LARGEST), node.get("maximum", _LARGEST)
    clamped = min(max(value, low), high)
    if abs(clamped) == _LARGEST:
        return None
    if node["type"] == "number":
        return _number(float(clamped))
    step = node.get("multipleOf", 1)
    return str(round(clamped / step) * step)
