"""Strategies for requests of every handler: valid by schema, and valid in all respects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from handlers.chat.openai.request import CHAT_ROUTE, OPENAI_FIELDS
from handlers.chat.request import ChatRequest
from handlers.chat.short_form import ChatOperator
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Request
from tests.fuzzing.cross_field_rules import CHAT_RULES, HOOKS, SDXL_RULES, WAN_RULES, Rule, Values
from tests.fuzzing.schemas import Schema, may_be_null, request_schema, values

OPERATOR = ChatOperator(callback_hosts=frozenset({HOOKS}))

_ALIAS = re.compile(r"Alias of `(.+)`\.")


@dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        path: The canonical path.
        names: The canonical path and its aliases: `config.steps`, `config.num_inference_steps`.
        node: Its schema.
        required: Whether it is required.
    """

    path: str
    names: tuple[str, ...]
    node: Schema
    required: bool


@dataclass(frozen=True)
class Form:
    """One kind of request.

    Attributes:
        name: `sdxl`, `wan`, `chat` or `openai`.
        model: The request model.
        schema: The request schema.
        fields: The fields by canonical path.
        rules: The cross-field rules.
    """

    name: str
    model: type[Request]
    schema: Schema
    fields: Mapping[str, Field]
    rules: tuple[Rule, ...]

    def nest(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Builds a request body from values by path."""
        if self.name == "openai":
            return {"openai_route": CHAT_ROUTE, "openai_input": deepcopy(dict(sent))}
        nested: dict[str, Any] = {}
        for path, value in sent.items():
            place, _, name = path.rpartition(".")
            (nested.setdefault(place, {}) if place else nested)[name] = deepcopy(value)
        return nested

    def parse(self, raw: object) -> Request:
        """Parses a request as a worker does."""
        return self.model.parse(raw, job_id="r", operator=OPERATOR)


def _fields(schema: Schema) -> dict[str, Field]:
    """Returns the fields of a schema with their aliases, which are recognized by their descriptions."""
    nodes = {name: node for name, node in schema["properties"].items() if name not in ("config", "metadata")}
    for place in ("config", "metadata"):
        for name, node in _inner(schema, place).items():
            nodes[f"{place}.{name}"] = node
    canonical = {path: match[1] if (match := _ALIAS.match(node.get("description", ""))) else path for path, node in nodes.items()}
    return {
        path: Field(path, tuple(name for name in nodes if canonical[name] == path), node, not may_be_null(node))
        for path, node in nodes.items()
        if canonical[path] == path
    }


def _inner(schema: Schema, place: str) -> Mapping[str, Schema]:
    node = schema["properties"].get(place, {"anyOf": [{"properties": {}}]})
    properties: Mapping[str, Schema] = node["anyOf"][0]["properties"]
    return properties


def _openai_fields(schema: Schema) -> dict[str, Field]:
    """Returns the fields of OpenAI-compatible requests, which have no schema: their names map to fields of a chat request."""
    chat = _fields(schema)
    found: dict[str, Field] = {}
    for path in dict.fromkeys(OPENAI_FIELDS.values()):
        names = tuple(name for name, field in OPENAI_FIELDS.items() if field == path)
        found[path] = Field(path, names, chat[path].node, path == "model")
    return found


def _form(name: str, model: type[Request], rules: tuple[Rule, ...]) -> Form:
    schema = request_schema("chat" if name == "openai" else name)
    return Form(name, model, schema, _openai_fields(schema) if name == "openai" else _fields(schema), rules)


FORMS = (
    _form("sdxl", SdxlRequest, SDXL_RULES),
    _form("wan", WanRequest, WAN_RULES),
    _form("chat", ChatRequest, CHAT_RULES),
    _form("openai", ChatRequest, CHAT_RULES),
)


def schema_valid(form: Form) -> SearchStrategy[Values]:
    """Returns a strategy for values by canonical path that satisfy the schema, but possibly not the rules."""
    drawn = {path: values(field.node, form.schema) for path, field in form.fields.items()}
    required = {path: each for path, each in drawn.items() if form.fields[path].required}
    return st.fixed_dictionaries(required, optional={path: each for path, each in drawn.items() if path not in required})


def valid(form: Form) -> SearchStrategy[Values]:
    """Returns a strategy for valid values, each under one of its names."""

    def name(drawn: Values, seed: int) -> Values:
        choose = Random(seed).choice  # one draw, because a draw for each field costs more than the request
        return {choose(form.fields[path].names): value for path, value in repaired(form, drawn).items()}

    return st.builds(name, schema_valid(form), st.integers(0, 2**32 - 1))


def repaired(form: Form, drawn: Values) -> Values:
    """Returns the values with all violations of rules repaired."""
    changed = deepcopy(drawn)
    for rule in form.rules:
        rule.repair(changed)
    return {path: value for path, value in changed.items() if path in form.fields}
