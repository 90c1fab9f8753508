"""Random constraints: JSON Schemas, valid and invalid, satisfiable or not, choices and patterns."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.fuzzing.conversations.texts import short_text

_LEAVES: tuple[dict[str, Any], ...] = (
    {"enum": ["heron", "swan", None, 7, {"a": [1]}]}, {"const": "é"}, {"type": "boolean"}, {"type": "null"}, {},
    {"type": "integer", "minimum": 0, "maximum": 99}, {"type": "number", "exclusiveMinimum": 0}, {"type": "integer", "multipleOf": 7},
    {"type": "string", "maxLength": 6}, {"type": "string", "pattern": "^[a-z]{1,5}$"}, {"type": "string", "pattern": "^\\p{Lu}\\w*$"},
    {"type": "string", "pattern": "^(?=.*\\d)[a-z\\d]{2,6}$"}, {"type": "string", "pattern": "^(a|é|🦢){1,4}$"},
    {"type": "string", "format": "uuid"}, {"type": "string", "format": "date"}, {"type": "string", "format": "cuid2"},
    {"type": ["string", "null"], "maxLength": 3}, {"type": "string", "not": {"const": "a"}},
)  # fmt: skip
_WRONG_LEAVES: tuple[dict[str, Any], ...] = (
    {"pattern": "("}, {"type": "nonsense"}, {"$ref": "#"}, {"$ref": "#/$defs/none"}, {"not": {}}, {"enum": []},
    {"type": "integer", "multipleOf": 10_000_019}, {"type": "string", "minLength": 5000},
    {"type": "string", "pattern": "((a{1,90}b{1,90}){1,90}c){1,90}"},
)  # fmt: skip
_PATTERNS = ("yes|no", "[a-z]{1,9}", "(é|🦢)+", "\\d{3}-\\d{3}", "(", "(?=a)ab", "(a*)*b", ".*", "\\p{L}{1,4}", "\\bno\\b")
_NAMES = ("a", "b", "é", "a b", '"', "$ref")


def random_schema(random: Random, depth: int = 3) -> dict[str, Any]:
    """Draws a JSON Schema."""
    if depth == 0 or random.random() < 0.25:
        return random.choice(_WRONG_LEAVES if random.random() < 0.05 else _LEAVES)
    return random_nested(random, depth)


def random_nested(random: Random, depth: int = 2) -> dict[str, Any]:
    """Draws a JSON Schema with subschemas, mostly of objects."""

    def inner() -> dict[str, Any]:
        return random_schema(random, depth - 1)

    match random.choice(("object", "object", "object", "record", "array", "combined", "condition")):
        case "object":
            properties = {random.choice(_NAMES): inner() for _ in range(random.randint(0, 3))}
            closed = {"required": sorted(properties), "additionalProperties": random.random() < 0.2}
            return {"type": "object", "properties": properties, **closed}
        case "record":
            return {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": inner()}
        case "array":
            return {"type": "array", "items": inner(), "maxItems": 3, "uniqueItems": random.random() < 0.5}
        case "combined":
            return {random.choice(("anyOf", "oneOf", "allOf", "prefixItems")): [inner() for _ in range(random.randint(1, 3))]}
    return {"if": inner(), "then": inner()}


def random_constraint(random: Random) -> dict[str, Any]:
    """Draws the fields of a request that constrain its completion; half of the time none."""
    match random.choice(("none",) * 5 + ("object", "schema", "guided schema", "choice", "pattern")):
        case "object":
            return {"response_format": {"type": "json_object"}}
        case "schema":
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": random_schema(random)}}}
        case "guided schema":
            return {"guided_json": random_schema(random)}
        case "choice":
            return {"guided_choice": [random.choice(("yes", "no", "é", "</s>", short_text(random) or "?")) for _ in range(3)]}
        case "pattern":
            pattern = random.choice(_PATTERNS)
            return random.choice(({"guided_regex": pattern}, {"structured_outputs": {"regex": pattern}}))
    return {}
