"""Bounds the work that a JSON Schema can cause, before any of it is done."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from handlers.chat.structured.walk import IN_PLACE, Path, subschemas, target

_MAX_ALTERNATIVES = 1_000
# The automaton of an intersection may have as many states as the product of those of the patterns.
_MAX_PATTERNS = 8
# The automaton of a multiple has as many states as the number is large.
_MAX_MULTIPLE = 100_000

Problem = tuple[Path, str]
"""Where a schema is at fault, and the reason."""


def exceeded_bounds(root: Any) -> Problem | None:
    """Returns the first place at which a schema is too complex, innermost first; None if it is within bounds."""
    counts: dict[int, int] = {}
    for path, schema in subschemas(root):
        if _expanded(root, schema, counts) > _MAX_ALTERNATIVES:
            return path, f"its references and alternatives expand to more than {_MAX_ALTERNATIVES:,} schemas"
        conjuncts = _conjuncts(root, schema)
        if sum("pattern" in conjunct for conjunct in conjuncts) > _MAX_PATTERNS:
            return path, f"more than {_MAX_PATTERNS} patterns apply to the same value"
        if _least_common_multiple(conjuncts) > _MAX_MULTIPLE:
            return path, f"the numbers of `multipleOf` must have a common multiple of at most {_MAX_MULTIPLE:,}"
    return None


def _expanded(root: Any, schema: Any, counts: dict[int, int]) -> int:
    """Counts the schemas that apply to one value, following references as often as they are made. A recursive one counts once."""
    if not isinstance(schema, dict):
        return 1
    if id(schema) not in counts:
        counts[id(schema)] = 1  # while it is being counted
        counts[id(schema)] = 1 + sum(_expanded(root, child, counts) for child in _in_place(root, schema))
    return counts[id(schema)]


def _in_place(root: Any, schema: dict[str, Any]) -> Iterator[Any]:
    for key in IN_PLACE:
        value = schema.get(key)
        yield from value if isinstance(value, list) else (value,) if isinstance(value, dict) else ()
    yield from _referenced(root, schema)


def _referenced(root: Any, schema: dict[str, Any]) -> Iterator[Any]:
    try:
        yield target(root, schema["$ref"])
    except (LookupError, TypeError):
        return  # none, or one that is reported by name later


def _conjuncts(root: Any, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the schema and those that `allOf` and references combine with it, each once."""
    found: dict[int, dict[str, Any]] = {}
    waiting: list[Any] = [schema]
    while waiting and len(found) <= _MAX_ALTERNATIVES:
        node = waiting.pop()
        if isinstance(node, dict) and id(node) not in found:
            found[id(node)] = node
            waiting.extend(node["allOf"] if isinstance(node.get("allOf"), list) else ())
            waiting.extend(_referenced(root, node))
    return list(found.values())


def _least_common_multiple(schemas: list[dict[str, Any]]) -> int:
    """Returns the common multiple of all `multipleOf`, in units of their smallest decimal place."""
    fractions = [Fraction(str(number)) for schema in schemas if _is_number(number := schema.get("multipleOf"))]
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    return math.lcm(*(max(1, abs(int(fraction * unit))) for fraction in fractions))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def most_complex(root: Any) -> Path:
    """Returns the path of the subschema that most likely makes a schema too expensive to compile."""
    ranked = [(_expanded(root, schema, {}), len(str(schema.get("pattern", ""))), path) for path, schema in subschemas(root)]
    return max(ranked, key=lambda entry: entry[:2], default=(0, 0, ()))[2]
