"""JSON Schemas of every handler's requests and payloads, derived from their pydantic models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from handlers import HANDLERS
from handlers.chat.openai.response import OpenAIChunk, OpenAICompletion, OpenAIError, OpenAIModel, OpenAIModels
from handlers.chat.openai.text_completion import OpenAITextCompletion
from shared.contract.field_location import ComputedDefault, FieldLocation, field_locations
from shared.contract.request import Request

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Node = dict[str, Any]

_OpenAIResponse = OpenAICompletion | OpenAIChunk | OpenAITextCompletion | OpenAIModel | OpenAIModels | OpenAIError


@dataclass(frozen=True)
class Endpoint:
    """One handler's side of the contract.

    Attributes:
        name: One of `HANDLERS`.
        request: The request model.
        payload: The union of the payload models, discriminated by `status`.
    """

    name: str
    request: type[Request]
    payload: Any

    @classmethod
    def of(cls, name: str) -> Endpoint:
        """Imports a handler's models by the convention that `handlers/__init__.py` documents."""
        request, payload = (
            getattr(import_module(f"handlers.{name}.{role}"), f"{name.capitalize()}{role.capitalize()}") for role in ("request", "payload")
        )
        return cls(name, request, payload)


ENDPOINTS = tuple(map(Endpoint.of, HANDLERS))


def request_schema(model: type[Request], *, closed: bool = False) -> Node:
    """Returns the schema of a request body: nested sections, canonical names and aliases, `null` allowed for every optional field.

    Args:
        model: The request model.
        closed: Whether unknown fields are an error, as for TypeScript. A handler only warns about them.
    """
    flat = model.model_json_schema(mode="validation")
    required = set(flat.get("required", ()))
    sections: dict[str, Node] = {"top": {}, "config": {}, "metadata": {}}
    for name, location in field_locations(model).items():
        node = _field(model, name, flat["properties"][name], required=name in required)
        sections[location.section][location.name] = node
        for section, alias in location.documented_aliases():
            sections[section].setdefault(alias, _alias(location, node))
    properties = sections.pop("top") | {
        name: _object(inner, name, closed=closed) for name, inner in sections.items() if inner or name == "metadata"
    }
    root = {"title": model.__name__, "description": flat["description"].partition("\n")[0], "type": "object", "properties": properties}
    root |= _requirements(model, required, closed=closed)
    if closed:
        root["additionalProperties"] = False
    return root | _definitions(flat, lenient=not closed)


def payload_schema(endpoint: Endpoint) -> Node:
    """Returns the schema of an endpoint's payloads, discriminated by `status`."""
    whole = TypeAdapter(endpoint.payload).json_schema(mode="serialization")
    union = {"title": f"{endpoint.name.capitalize()}Payload", "oneOf": whole["oneOf"]}
    return union | {"$defs": {name: _as_serialized(_clean(node)) for name, node in whole["$defs"].items() if name != "JsonValue"}}


def openai_schema() -> Node:
    """Returns the schema of the OpenAI-compatible responses, discriminated by `object`, which errors lack."""
    whole = TypeAdapter(_OpenAIResponse).json_schema(mode="serialization")
    union = {"title": "OpenAIAnswer", "anyOf": whole["anyOf"]}
    return union | {"$defs": {name: _as_serialized(_clean(node)) for name, node in whole["$defs"].items()}}


def describe_default(model: type[Request], name: str) -> str | None:
    """Returns a field's default as text, or None for a required field or one that is off by default."""
    field = model.model_fields[name]
    for metadata in field.metadata:
        if isinstance(metadata, ComputedDefault):
            return metadata.text
    if field.default in (None, (), PydanticUndefined) or not isinstance(field.default, str | int | float):
        return None
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def _field(model: type[Request], name: str, node: Node, *, required: bool) -> Node:
    default = describe_default(model, name)
    inner = _clean(node)
    description = " ".join(filter(None, [inner.pop("description", None), f"Default: {default}." if default else None]))
    inner.pop("default", None)
    return ({"description": description} if description else {}) | (inner if required else _nullable(inner))


def _alias(location: FieldLocation, node: Node) -> Node:
    schema = _nullable({key: value for key, value in node.items() if key != "description"})
    return {"description": f"Alias of `{location.path}`.", "deprecated": True} | schema


def _requirements(model: type[Request], required: set[str], *, closed: bool) -> Node:
    locations = {name: location for name, location in field_locations(model).items() if name in required}
    if closed:
        return {"required": [location.name for location in locations.values()]}
    unaliased = [location.name for location in locations.values() if not location.aliases]
    names = [
        (location.name, *(alias for section, alias in location.documented_aliases() if section == "top"))
        for location in locations.values()
        if location.aliases
    ]
    any_name = [{"anyOf": [{"required": [name]} for name in alternatives]} for alternatives in names]
    return ({"required": unaliased} if unaliased else {}) | ({"allOf": any_name} if any_name else {})


def _object(properties: Node, section: str, *, closed: bool) -> Node:
    node: Node = {"type": "object", "properties": properties}
    if section == "metadata":
        node["description"] = "May contain additional keys of the caller's own, which are neither read nor returned."
    elif closed:
        node["additionalProperties"] = False
    return _nullable(node)


def _definitions(flat: Node, *, lenient: bool) -> Node:
    definitions = {name: _clean(node) for name, node in flat.get("$defs", {}).items() if name != "JsonValue"}
    for node in definitions.values():
        for name, inner in node.get("properties", {}).items():
            if name not in node.get("required", ()):
                node["properties"][name] = _nullable(_with_default(inner))
        if not lenient:
            node["additionalProperties"] = False
    return {"$defs": definitions} if definitions else {}


def _with_default(node: Node) -> Node:
    default = node.pop("default", None)
    return node if default is None else node | {"description": f"{node['description']} Default: {default}."}


def _nullable(node: Node) -> Node:
    if {"type": "null"} in node.get("anyOf", ()):
        return node
    annotations = {key: node[key] for key in ("description", "default", "deprecated") if key in node}
    options = node["anyOf"] if "anyOf" in node else [{key: value for key, value in node.items() if key not in annotations}]
    return annotations | {"anyOf": [*options, {"type": "null"}]}


def _as_serialized(node: Node) -> Node:
    """Adapts a payload object to its serialized form: optional keys are omitted rather than `null`, and no key has a default."""
    for name, inner in node["properties"].items():
        inner.pop("default", None)
        if name not in node.get("required", ()):
            option = next(option for option in inner.pop("anyOf") if option != {"type": "null"})
            node["properties"][name] = option | inner
    node.setdefault("additionalProperties", False)
    return node


def _clean(node: Any) -> Any:
    """Removes pydantic's titles, which would become names of types, the `allowed` texts of error messages, and all but first lines."""
    if isinstance(node, list):
        return [_clean(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if node.get("$ref") == "#/$defs/JsonValue":
        return {}
    cleaned = {key: _clean(value) for key, value in node.items() if key not in ("title", "allowed", "properties")}
    if isinstance(node.get("description"), str):
        cleaned["description"] = node["description"].partition("\n")[0]
    if "properties" in node:
        cleaned["properties"] = {name: _clean(inner) for name, inner in node["properties"].items()}
    return cleaned
