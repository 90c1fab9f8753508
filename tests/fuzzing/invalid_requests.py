"""Requests in which one thing is wrong, and the name of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzzing.cross_field_rules import HOOKS
from tests.fuzzing.requests import Form, valid
from tests.fuzzing.schemas import Schema, options, values

CANARY = "canary: a heron over the bay, and nobody else may read it"
"""In every text that is wrong; never in what is said about it."""

_OF_TYPES: Mapping[str, tuple[Any, ...]] = {
    "string": (CANARY,),
    "integer": (7, -7),
    "number": (1.5, -0.0),
    "boolean": (True, False),
    "array": ([], [CANARY]),
    "object": ({}, {CANARY: CANARY}),
}
_ALWAYS_WRONG = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e308)


@dataclass(frozen=True)
class Spot:
    """A value somewhere in a request.

    Attributes:
        path: Its field's name as it was sent, then the keys and indexes within.
        node: What it may be.
        required: Whether it may be left out.
        field: The canonical path of its field.
    """

    path: tuple[str | int, ...]
    node: Schema
    required: bool
    field: str

    @property
    def blamed(self) -> str:
        """How a message calls it. The parts of a text are joined before it is judged, so the text is blamed."""
        written = str(self.path[0])
        for key in self.path[1:]:
            written += f"[{key}]" if isinstance(key, int) else f".{key}"
            if self.field == "messages" and key == "content":
                break
        return written

    @property
    def blamed_if_absent(self) -> str:
        """How a message calls it when it is not there: a field by its canonical name."""
        return self.field if len(self.path) == 1 else self.blamed


@dataclass(frozen=True)
class Mutant:
    """A request in which one thing is wrong.

    Attributes:
        raw: As it is sent.
        blamed: What is wrong.
    """

    raw: dict[str, Any]
    blamed: str


def spots(form: Form, sent: Mapping[str, Any]) -> Iterator[Spot]:
    """Every value of a request, at any depth."""
    for field in form.fields.values():
        for name in field.names:
            if name in sent:
                yield from _within(Spot((name,), field.node, field.required, field.path), sent[name], form.schema)


def _within(spot: Spot, value: Any, whole: Schema) -> Iterator[Spot]:
    yield spot
    for option in options(spot.node, whole):
        if isinstance(value, list) and option.get("type") == "array":
            for index, item in enumerate(value):
                yield from _within(Spot((*spot.path, index), option["items"], False, spot.field), item, whole)
        elif isinstance(value, dict):
            for key, inner in option.get("properties", {}).items():
                if value.get(key) is not None:
                    needed = key in option.get("required", ())
                    yield from _within(Spot((*spot.path, key), inner, needed, spot.field), value[key], whole)


def put(form: Form, sent: Mapping[str, Any], spot: Spot, value: Any) -> dict[str, Any]:
    """The request with another value in one place."""
    changed = deepcopy(dict(sent))
    inner: Any = changed
    for key in spot.path[:-1]:
        inner = inner[key]
    inner[spot.path[-1]] = value
    return form.nest(changed)


def take(form: Form, sent: Mapping[str, Any], spot: Spot) -> dict[str, Any]:
    """The request without one key."""
    changed = deepcopy(dict(sent))
    inner: Any = changed
    for key in spot.path[:-1]:
        inner = inner[key]
    del inner[spot.path[-1]]
    return form.nest(changed)


def wrong(node: Schema, whole: Schema) -> SearchStrategy[Any]:
    """Values that a node does not allow: of other types, and just beyond what it does."""
    able = options(node, whole)
    types = {option["type"] for option in able}
    types |= {"integer"} if "number" in types else set()
    others = [value for kind, some in _OF_TYPES.items() if kind not in types for value in some]
    return st.one_of(st.sampled_from([*others, *_ALWAYS_WRONG]), *(beyond for option in able for beyond in _beyond(option, whole)))


def _beyond(node: Schema, whole: Schema) -> Iterator[SearchStrategy[Any]]:
    if "enum" in node or "const" in node:
        yield _no_choices(node.get("enum") or [node["const"]])
    elif node["type"] in ("integer", "number"):
        yield st.sampled_from(list(_past_the_ends(node)))
    elif node["type"] == "string":
        yield st.sampled_from(list(_no_texts(node)))
    elif node["type"] == "array":
        yield from _no_lists(node, whole)
    elif "properties" not in node:
        yield st.sampled_from(list(_no_schemas()))


def _no_lists(node: Schema, whole: Schema) -> Iterator[SearchStrategy[Any]]:
    if "maxItems" in node:
        yield values(node["items"], whole).map(lambda item: [item] * (node["maxItems"] + 1))
    if node.get("minItems"):
        yield st.just([])


def _no_schemas() -> Iterator[Any]:
    """The one object whose keys are free is a JSON Schema, of modest depth and size."""
    deep: Any = {}
    for _ in range(40):
        deep = {"not": deep}
    yield from (deep, {"const": CANARY + "\0"}, {CANARY + "\ud800": {}}, {"enum": [0] * 6000})


def _no_choices(choices: list[Any]) -> SearchStrategy[Any]:
    if isinstance(choices[0], str):
        return st.sampled_from([CANARY, "", choices[0].upper(), choices[0] + " ", choices[0] + "\0"])
    return st.sampled_from([number for number in (0, -1, min(choices) + 0.5, max(choices) + 1, "1") if number not in choices])


def _past_the_ends(node: Schema) -> Iterator[float]:
    low, high = node["minimum"], node["maximum"]
    if node["type"] == "integer":
        step = node.get("multipleOf", 1)
        yield from (low - 1, low - step, high + 1, high + step)
        yield from [low + 1] * (step > 1)
    else:
        yield from (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.floor(low) - 1, math.ceil(high) + 1)


def _no_texts(node: Schema) -> Iterator[str]:
    yield from (CANARY + "\0", CANARY + "\ud800", "\udfff" + CANARY)
    if "pattern" in node:
        yield from (f"../{CANARY}", "", "a\n", "ä")
    if node.get("format") == "uri":
        yield from (f"https://{HOOKS}:x/{CANARY}", f"https://{HOOKS}@169.254.169.254/", f"file:///{CANARY}", f"http://{HOOKS}/", CANARY)
    if node.get("minLength"):
        yield ""
    if "maxLength" in node:
        most = node["maxLength"]
        yield from ("x" * (most + 1), CANARY * (most // len(CANARY) + 1))


@st.composite
def mutants(draw: DrawFn, form: Form) -> Mutant:
    """A valid request of a form, then one thing in it made wrong."""
    sent = draw(valid(form))
    spot = draw(st.sampled_from(list(spots(form, sent))))
    if spot.required and draw(st.booleans()):
        raw = put(form, sent, spot, None) if draw(st.booleans()) else take(form, sent, spot)
        return Mutant(raw, spot.blamed_if_absent)
    return Mutant(put(form, sent, spot, draw(wrong(spot.node, form.schema))), spot.blamed)
