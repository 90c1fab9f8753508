"""A strategy for requests with exactly one invalid value, and the path that must be reported for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzzing.cross_field_rules import HOOKS
from tests.fuzzing.requests import Form, valid
from tests.fuzzing.schemas import Schema, options, values

CANARY = "canary: a heron over the bay, for your eyes only"
"""Part of every invalid text; must not occur in error messages."""

_VALUES_BY_TYPE: Mapping[str, tuple[Any, ...]] = {
    "string": (CANARY,),
    "integer": (7, -7),
    "number": (1.5, -0.0),
    "boolean": (True, False),
    "array": ([], [CANARY]),
    "object": ({}, {CANARY: CANARY}),
}
_ALWAYS_INVALID = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e308)


@dataclass(frozen=True)
class Location:
    """The location of a value in a request.

    Attributes:
        path: The field's name as it was sent, followed by keys and indexes.
        node: Its schema.
        required: Whether it is required.
        field: The canonical path of its field.
    """

    path: tuple[str | int, ...]
    node: Schema
    required: bool
    field: str

    @property
    def reported(self) -> str:
        """The path in error messages. Text parts of a message are joined before validation, so the whole content is reported."""
        written = str(self.path[0])
        for key in self.path[1:]:
            written += f"[{key}]" if isinstance(key, int) else f".{key}"
            if self.field == "messages" and key == "content":
                break
        return written

    @property
    def reported_if_absent(self) -> str:
        """The path in error messages if it is absent: the canonical path of a field."""
        return self.field if len(self.path) == 1 else self.reported


@dataclass(frozen=True)
class InvalidRequest:
    """A request with one invalid value.

    Attributes:
        raw: The request body.
        reported: The path of the invalid value in error messages.
    """

    raw: dict[str, Any]
    reported: str


def locations(form: Form, sent: Mapping[str, Any]) -> Iterator[Location]:
    """Yields the location of every value of a request, at any depth."""
    for field in form.fields.values():
        for name in field.names:
            if name in sent:
                yield from _within(Location((name,), field.node, field.required, field.path), sent[name], form.schema)


def _within(location: Location, value: Any, whole: Schema) -> Iterator[Location]:
    yield location
    for option in options(location.node, whole):
        if isinstance(value, list) and option.get("type") == "array":
            for index, item in enumerate(value):
                yield from _within(Location((*location.path, index), option["items"], False, location.field), item, whole)
        elif isinstance(value, dict):
            for key, inner in option.get("properties", {}).items():
                if value.get(key) is not None:
                    needed = key in option.get("required", ())
                    yield from _within(Location((*location.path, key), inner, needed, location.field), value[key], whole)


def replace(form: Form, sent: Mapping[str, Any], location: Location, value: Any) -> dict[str, Any]:
    """Returns the request with another value at a location."""
    changed = deepcopy(dict(sent))
    inner: Any = changed
    for key in location.path[:-1]:
        inner = inner[key]
    inner[location.path[-1]] = value
    return form.nest(changed)


def remove(form: Form, sent: Mapping[str, Any], location: Location) -> dict[str, Any]:
    """Returns the request without the key at a location."""
    changed = deepcopy(dict(sent))
    inner: Any = changed
    for key in location.path[:-1]:
        inner = inner[key]
    del inner[location.path[-1]]
    return form.nest(changed)


def invalid_values(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    """Returns a strategy for invalid values of a node: of other types, and just outside of its constraints."""
    alternatives = options(node, whole)
    types = {option["type"] for option in alternatives}
    types |= {"integer"} if "number" in types else set()
    others = [value for kind, some in _VALUES_BY_TYPE.items() if kind not in types for value in some]
    return st.one_of(
        st.sampled_from([*others, *_ALWAYS_INVALID]), *(strategy for option in alternatives for strategy in _violations(option, whole))
    )


def _violations(node: Schema, whole: Schema) -> Iterator[SearchStrategy[Any]]:
    if "enum" in node or "const" in node:
        yield _invalid_choices(node.get("enum") or [node["const"]])
    elif node["type"] in ("integer", "number"):
        yield st.sampled_from(list(_out_of_range(node)))
    elif node["type"] == "string":
        yield st.sampled_from(list(_invalid_texts(node)))
    elif node["type"] == "array":
        yield from _invalid_lists(node, whole)
    elif "properties" not in node:
        yield st.sampled_from(list(_invalid_json_schemas()))


def _invalid_lists(node: Schema, whole: Schema) -> Iterator[SearchStrategy[Any]]:
    if "maxItems" in node:
        yield values(node["items"], whole).map(lambda item: [item] * (node["maxItems"] + 1))
    if node.get("minItems"):
        yield st.just([])


def _invalid_json_schemas() -> Iterator[Any]:
    """The only object with arbitrary keys is a JSON Schema, of limited depth and size."""
    deep: Any = {}
    for _ in range(40):
        deep = {"not": deep}
    yield from (deep, {"const": CANARY + "\0"}, {CANARY + "\ud800": {}}, {"enum": [0] * 6000})


def _invalid_choices(choices: list[Any]) -> SearchStrategy[Any]:
    if isinstance(choices[0], str):
        return st.sampled_from([CANARY, "", choices[0].upper(), choices[0] + " ", choices[0] + "\0"])
    return st.sampled_from([number for number in (0, -1, min(choices) + 0.5, max(choices) + 1, "1") if number not in choices])


def _out_of_range(node: Schema) -> Iterator[float]:
    low, high = node["minimum"], node["maximum"]
    if node["type"] == "integer":
        step = node.get("multipleOf", 1)
        yield from (low - 1, low - step, high + 1, high + step)
        yield from [low + 1] * (step > 1)
    else:
        yield from (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.floor(low) - 1, math.ceil(high) + 1)


def _invalid_texts(node: Schema) -> Iterator[str]:
    yield from (CANARY + "\0", CANARY + "\ud800", "\udfff" + CANARY)
    if "pattern" in node:
        yield from (text for text in (f"../{CANARY}", "", "a\n", "ä") if not re.fullmatch(node["pattern"], text))
    if node.get("format") == "uri":
        yield from (f"https://{HOOKS}:x/{CANARY}", f"https://{HOOKS}@169.254.169.254/", f"file:///{CANARY}", f"http://{HOOKS}/", CANARY)
    if node.get("minLength"):
        yield ""
    if "maxLength" in node:
        most = node["maxLength"]
        yield from ("x" * (most + 1), CANARY * (most // len(CANARY) + 1))


@st.composite
def invalid_requests(draw: DrawFn, form: Form) -> InvalidRequest:
    """Returns a valid request with one value made invalid."""
    sent = draw(valid(form))
    location = draw(st.sampled_from(list(locations(form, sent))))
    if location.required and draw(st.booleans()):
        raw = replace(form, sent, location, None) if draw(st.booleans()) else remove(form, sent, location)
        return InvalidRequest(raw, location.reported_if_absent)
    return InvalidRequest(replace(form, sent, location, draw(invalid_values(location.node, form.schema))), location.reported)
