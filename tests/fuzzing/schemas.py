"""Strategies for valid values of a JSON Schema. Supports the keywords that the contract's schemas use and rejects all others.

The library for this, `hypothesis-jsonschema`, is incompatible with the installed version of Hypothesis.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Schema = Mapping[str, Any]

_FOLDER = Path(__file__).parents[2] / "schemas"
_ANNOTATIONS = {"contentMediaType", "description", "deprecated", "title", "$schema", "$defs"}
_KNOWN = {
    "integer": {"minimum", "maximum", "multipleOf"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "string": {"minLength", "maxLength", "pattern", "format", "examples"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties", "allOf", "patternProperties", "maxProperties"},
}
# Surrogates and NUL are invalid in requests, so they belong to the invalid values.
_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# Longer lists and texts add no coverage but take time.
_MAX_ITEMS, _MAX_LENGTH = 3, 40

JSON: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_LETTERS, max_size=9),
    lambda inner: st.lists(inner, max_size=_MAX_ITEMS) | st.dictionaries(st.text(_LETTERS, max_size=9), inner, max_size=_MAX_ITEMS),
    max_leaves=6,
)
"""Arbitrary JSON values."""


def request_schema(name: str) -> Schema:
    """Loads the published schema of a handler's requests."""
    schema: Schema = json.loads((_FOLDER / f"{name}.request.schema.json").read_text(encoding="utf-8"))
    return schema


def options(node: Schema, whole: Schema) -> list[Schema]:
    """Returns the alternatives of a node, one type each, without `null`."""
    if "$ref" in node:
        return options(whole["$defs"][node["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in node:
        return [one for each in node["anyOf"] if each.get("type") != "null" for one in options(each, whole)]
    return [node]


def may_be_null(node: Schema) -> bool:
    """Whether `null` is allowed, which means absent."""
    return {"type": "null"} in node.get("anyOf", ())


def values(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    """Returns a strategy for the node's valid values, without `null`."""
    return st.one_of([_values(option, whole) for option in options(node, whole)])


def _values(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum") or [node["const"]])
    kind = node["type"]
    unknown = node.keys() - _KNOWN[kind] - _ANNOTATIONS - {"type"}
    assert not unknown, f"no values can be drawn for {unknown}"
    match kind:
        case "integer":
            step = node.get("multipleOf", 1)
            return st.integers(node["minimum"] // step, node["maximum"] // step).map(lambda number: number * step)
        case "number":
            low, high = node["minimum"], node["maximum"]
            return st.floats(low, high) | st.integers(math.ceil(low), math.floor(high))
        case "boolean":
            return st.booleans()
        case "string":
            return _texts(node)
        case "array":
            least, most = node.get("minItems", 0), min(node.get("maxItems", _MAX_ITEMS), _MAX_ITEMS)
            return st.lists(values(node["items"], whole), min_size=least, max_size=most)
    return objects(node, whole)


def _texts(node: Schema) -> SearchStrategy[str]:
    if "pattern" in node:
        most = node.get("maxLength", math.inf)
        return st.from_regex(re.compile(node["pattern"].removeprefix("^").removesuffix("$"), re.ASCII), fullmatch=True).filter(
            lambda text: len(text) <= most
        )
    if node.get("format") == "uri":
        return st.from_regex(r"https://[a-z]{1,9}\.example/[a-z0-9/]{0,9}", fullmatch=True)
    examples = [st.sampled_from(node["examples"])] if "examples" in node else []
    return st.one_of(*examples, _plain_texts(node))


def _plain_texts(node: Schema) -> SearchStrategy[str]:
    return st.text(_LETTERS, min_size=node.get("minLength", 0), max_size=min(node.get("maxLength", _MAX_LENGTH), _MAX_LENGTH))


def objects(node: Schema, whole: Schema) -> SearchStrategy[dict[str, Any]]:
    """Returns a strategy for objects with all required and some optional keys, some of which are `null`."""
    if "patternProperties" in node:
        ((pattern, inner),) = node["patternProperties"].items()
        return st.dictionaries(_texts({"pattern": pattern}), values(inner, whole), max_size=_MAX_ITEMS)
    if "properties" not in node:
        return st.dictionaries(st.text(_LETTERS, max_size=9), JSON, max_size=_MAX_ITEMS)
    required = set(node.get("required", ()))
    present = {name: values(inner, whole) for name, inner in node["properties"].items()}
    nullable = {name: st.none() | each if may_be_null(node["properties"][name]) else each for name, each in present.items()}
    return st.fixed_dictionaries(
        {name: present[name] for name in sorted(required)}, optional={name: each for name, each in nullable.items() if name not in required}
    )
