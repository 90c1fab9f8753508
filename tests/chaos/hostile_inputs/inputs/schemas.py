"""JSON Schemas, regular expressions and choices that explode while they are compiled."""

from __future__ import annotations

from typing import Any

from tests.chaos.hostile_inputs.registry import COMPLETED, INVALID, hostile
from tests.chaos.soak.scenario import Scenario

Schema = dict[str, Any]


def doubling(keyword: str, count: int = 41) -> Schema:
    """Definitions, each of which refers to the next twice."""
    reference: list[Schema] = [{"$ref": f"#/$defs/d{number}"} for number in range(count + 1)]
    definitions: dict[str, Schema] = {f"d{number}": {keyword: [reference[number + 1]] * 2} for number in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{count}": {"type": "string"}}}


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


SCHEMAS: dict[str, Schema] = {
    "41 definitions, each `allOf` of the next twice": doubling("allOf"),
    "41 definitions, each `anyOf` of the next twice": doubling("anyOf"),
    "41 definitions, each `oneOf` of the next twice": doubling("oneOf"),
    "20 × `allOf` of patterns": {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{number + 5}}}"} for number in range(20)]},
    "`multipleOf` 10000019": {"type": "integer", "multipleOf": 10_000_019},
    "`allOf` of two large `multipleOf`": {"allOf": [{"type": "integer", "multipleOf": each} for each in (1_000_003, 1_000_033)]},
    "`multipleOf` 1e-300": {"type": "number", "multipleOf": 1e-300},
    "a minimum of 10⁴⁰⁰": {"type": "integer", "minimum": 10**400},
    "a pattern of 1,000,000 repetitions": {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"},
    "a pattern with nested quantifiers": {"type": "string", "pattern": "^((a+)+)+(b{1,500}){1,500}$"},
    "a pattern of 100,000 characters": {"type": "string", "pattern": "(a|b)" * 20_000},
    "a string of at least 10⁹ characters": {"type": "string", "minLength": 10**9},
    "a list of at least 10⁹ items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    "100,000 values in an `enum`": {"enum": [f"value {number}" for number in range(100_000)]},
    "100,000 required names": {"type": "object", "required": [f"name {number}" for number in range(100_000)]},
    "20,000 properties": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(20_000)}},
    "objects 400 levels deep": nested(400),
    "a `$ref` to itself": {"$ref": "#"},
    "two `$ref` to each other": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "a `$ref` to a URL": {"$ref": "https://169.254.169.254/latest/meta-data"},
    "a `$ref` to a file": {"$ref": "file:///proc/self/environ"},
}
GUIDED: dict[str, Schema] = {
    "a guided regular expression of 1,000,000 repetitions": {"guided_regex": "(.{1,1000}){1,1000}"},
    "a guided regular expression with 5,000 brackets": {"guided_regex": "(" * 5_000 + ")" * 5_000},
    "100,000 guided choices": {"guided_choice": [f"choice {number}" for number in range(100_000)]},
    "a guided choice of 1,000,000 characters": {"guided_choice": ["x" * 1_000_000]},
}


def _register(name: str, fields: Schema) -> None:
    def prepare(scenario: Scenario) -> None:
        scenario.configure(**fields)

    # Some of them can be followed within the limits.
    hostile("Schemas and grammars", name, prepare, "chat", outcomes=INVALID | {COMPLETED, "GENERATION_ERROR"})


for _name, _schema in SCHEMAS.items():
    _register(f"Schema: {_name}", {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _schema}}})
for _name, _fields in GUIDED.items():
    _register(_name[0].upper() + _name[1:], _fields)
