"""Values that a JSON Schema allows. As much of the language as the contract's schemas use; an unknown word is an error.

`hypothesis-jsonschema` would be the library for it; its last version is older than the Hypothesis that is used here and fails with it.
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
_SAYS_NOTHING = {"description", "deprecated", "title", "$schema", "$defs"}
_KNOWN = {
    "integer": {"minimum", "maximum", "multipleOf"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "string": {"minLength", "maxLength", "pattern", "format", "examples"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties", "allOf"},
}
# JSON can say neither; what is done with them belongs to the values that are refused.
_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# Longer lists and texts than these tell nothing more, and take their time.
_FEW, _SHORT = 3, 40

JSON: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_LETTERS, max_size=9),
    lambda inner: st.lists(inner, max_size=_FEW) | st.dictionaries(st.text(_LETTERS, max_size=9), inner, max_size=_FEW),
    max_leaves=6,
)
"""Any JSON."""


def request_schema(name: str) -> Schema:
    """The schema of a handler's request, as callers get it."""
    schema: Schema = json.loads((_FOLDER / f"{name}.request.schema.json").read_text(encoding="utf-8"))
    return schema


def options(node: Schema, whole: Schema) -> list[Schema]:
    """What a node may be, one type each, `null` left out."""
    if "$ref" in node:
        return options(whole["$defs"][node["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in node:
        return [one for each in node["anyOf"] if each.get("type") != "null" for one in options(each, whole)]
    return [node]


def may_be_null(node: Schema) -> bool:
    """Whether `null` is allowed, and so means absent."""
    return {"type": "null"} in node.get("anyOf", ())


def values(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    """Values that a node allows, but for `null`."""
    return st.one_of([_values(option, whole) for option in options(node, whole)])


def _values(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum") or [node["const"]])
    kind = node["type"]
    unknown = node.keys() - _KNOWN[kind] - _SAYS_NOTHING - {"type"}
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
            least, most = node.get("minItems", 0), min(node.get("maxItems", _FEW), _FEW)
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
    return st.text(_LETTERS, min_size=node.get("minLength", 0), max_size=min(node.get("maxLength", _SHORT), _SHORT))


def objects(node: Schema, whole: Schema) -> SearchStrategy[dict[str, Any]]:
    """Objects with the keys that they need, some of the others, and some that are `null`, which is as if they were not there."""
    if "properties" not in node:
        return st.dictionaries(st.text(_LETTERS, max_size=9), JSON, max_size=_FEW)
    required = set(node.get("required", ()))
    given = {name: values(inner, whole) for name, inner in node["properties"].items()}
    absent = {name: st.none() | each if may_be_null(node["properties"][name]) else each for name, each in given.items()}
    return st.fixed_dictionaries(
        {name: given[name] for name in sorted(required)}, optional={name: each for name, each in absent.items() if name not in required}
    )
