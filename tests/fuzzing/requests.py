"""Requests of every form, drawn from the schemas: what they allow, and what is valid besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from handlers.chat.openai.request import CHAT_ROUTE, OPENAI_FIELDS
from handlers.chat.request import ChatOperator, ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.request import Request
from tests.fuzzing.cross_field_rules import CHAT_RULES, HOOKS, SDXL_RULES, WAN_RULES, Rule, Values
from tests.fuzzing.schemas import Schema, may_be_null, request_schema, values

OPERATOR = ChatOperator(callback_hosts=frozenset({HOOKS}), streams=True)

_ALIAS = re.compile(r"Alias of `(.+)`\.")


@dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        path: Its canonical place and name.
        names: All of them that the schema knows: `config.steps`, `config.num_inference_steps`.
        node: What it may be.
        required: Whether it must be there.
    """

    path: str
    names: tuple[str, ...]
    node: Schema
    required: bool


@dataclass(frozen=True)
class Form:
    """One form of request.

    Attributes:
        name: `sdxl`, `wan`, `chat`, `openai`.
        model: What reads it.
        schema: Where its fields come from.
        fields: Its fields, by their paths.
        rules: What a schema cannot say.
    """

    name: str
    model: type[Request]
    schema: Schema
    fields: Mapping[str, Field]
    rules: tuple[Rule, ...]

    def nest(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """A request as it is sent, of values by the names that were chosen for them."""
        if self.name == "openai":
            return {"openai_route": CHAT_ROUTE, "openai_input": deepcopy(dict(sent))}
        nested: dict[str, Any] = {}
        for path, value in sent.items():
            place, _, name = path.rpartition(".")
            (nested.setdefault(place, {}) if place else nested)[name] = deepcopy(value)
        return nested

    def parse(self, raw: object) -> Request:
        """Reads a request as a worker does."""
        return self.model.parse(raw, job_id="r", operator=OPERATOR)


def _fields(schema: Schema) -> dict[str, Field]:
    """The fields of a schema, each with its other names: those say whose they are."""
    nodes = {name: node for name, node in schema["properties"].items() if name not in ("config", "metadata")}
    for place in ("config", "metadata"):
        for name, node in _inner(schema, place).items():
            nodes[f"{place}.{name}"] = node
    meant = {path: match[1] if (match := _ALIAS.match(node.get("description", ""))) else path for path, node in nodes.items()}
    return {
        path: Field(path, tuple(name for name in nodes if meant[name] == path), node, not may_be_null(node))
        for path, node in nodes.items()
        if meant[path] == path
    }


def _inner(schema: Schema, place: str) -> Mapping[str, Schema]:
    node = schema["properties"].get(place, {"anyOf": [{"properties": {}}]})
    properties: Mapping[str, Schema] = node["anyOf"][0]["properties"]
    return properties


def _openai_fields(schema: Schema) -> dict[str, Field]:
    """OpenAI's form has no schema of its own: its names mean fields of a chat request."""
    own = _fields(schema)
    found: dict[str, Field] = {}
    for meant in dict.fromkeys(OPENAI_FIELDS.values()):
        names = tuple(name for name, field in OPENAI_FIELDS.items() if field == meant)
        found[meant] = Field(meant, names, own[meant].node, meant == "model")
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


def allowed(form: Form) -> SearchStrategy[Values]:
    """Values by canonical paths that the schema allows, whatever they mean together."""
    drawn = {path: values(field.node, form.schema) for path, field in form.fields.items()}
    required = {path: each for path, each in drawn.items() if form.fields[path].required}
    return st.fixed_dictionaries(required, optional={path: each for path, each in drawn.items() if path not in required})


def valid(form: Form) -> SearchStrategy[Values]:
    """Values that are valid together, under one of their names each."""
    names = st.fixed_dictionaries({path: st.sampled_from(field.names) for path, field in form.fields.items()})
    return st.builds(lambda drawn, chosen: {chosen[path]: value for path, value in settled(form, drawn).items()}, allowed(form), names)


def settled(form: Form, drawn: Values) -> Values:
    """The values, those changed that one of the rules forbids."""
    changed = deepcopy(drawn)
    for rule in form.rules:
        rule.settle(changed)
    return {path: value for path, value in changed.items() if path in form.fields}
