"""JSON Schemas of what goes to each handler and what comes back, made from the declarations in `shared/contract`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from handlers.chat.openai.response import AnyAnswer
from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.contract.callback import ChatPayload, SdxlPayload, WanPayload
from shared.contract.field_location import ComputedDefault, FieldLocation, field_locations
from shared.contract.request import Request

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Node = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One handler's side of the contract.

    Attributes:
        name: `sdxl`, `wan` or `chat`.
        title: What its documentation is headed.
        request: The model of its requests.
        payload: The type of its payloads, a union told apart by `status`.
    """

    name: str
    title: str
    request: type[Request]
    payload: Any


ENDPOINTS = (
    Endpoint("sdxl", "SDXL", SdxlRequest, SdxlPayload),
    Endpoint("wan", "WAN", WanRequest, WanPayload),
    Endpoint("chat", "Chat", ChatRequest, ChatPayload),
)


def request_schema(model: type[Request], *, closed: bool = False) -> Node:
    """Describes a request as it is sent: nested, with canonical names, aliases, and `null` for absent.

    Args:
        model: The request.
        closed: Whether unknown names are an error, as for TypeScript; a handler only warns about them.
    """
    flat = model.model_json_schema(mode="validation")
    required = set(flat.get("required", ()))
    places: dict[str, Node] = {"top": {}, "config": {}, "metadata": {}}
    for name, location in field_locations(model).items():
        node = _field(model, name, flat["properties"][name], required=name in required)
        places[location.section][location.name] = node
        for place, alias in location.documented_aliases():
            places[place].setdefault(alias, _alias(location, node))
    properties = places.pop("top") | {
        name: _object(inner, name, closed=closed) for name, inner in places.items() if inner or name == "metadata"
    }
    root = {"title": model.__name__, "description": flat["description"].partition("\n")[0], "type": "object", "properties": properties}
    root |= _requirements(model, required, closed=closed)
    if closed:
        root["additionalProperties"] = False
    return root | _definitions(flat, lenient=not closed)


def payload_schema(endpoint: Endpoint) -> Node:
    """Describes what an endpoint sends back, told apart by `status`."""
    whole = TypeAdapter(endpoint.payload).json_schema(mode="serialization")
    union = {"title": f"{endpoint.name.capitalize()}Payload", "oneOf": whole["oneOf"]}
    return union | {"$defs": {name: _written(_clean(node)) for name, node in whole["$defs"].items() if name != "JsonValue"}}


def openai_schema() -> Node:
    """Describes the answers in OpenAI's form, told apart by `object`; an error has none."""
    whole = TypeAdapter(AnyAnswer).json_schema(mode="serialization")
    union = {"title": "OpenAIAnswer", "anyOf": whole["anyOf"]}
    return union | {"$defs": {name: _written(_clean(node)) for name, node in whole["$defs"].items()}}


def describe_default(model: type[Request], name: str) -> str | None:
    """A field's default in words; nothing for a field that is required or off."""
    field = model.model_fields[name]
    for part in field.metadata:
        if isinstance(part, ComputedDefault):
            return part.text
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
    same = _nullable({key: value for key, value in node.items() if key != "description"})
    return {"description": f"Another name of `{location.path}`.", "deprecated": True} | same


def _requirements(model: type[Request], required: set[str], *, closed: bool) -> Node:
    needed = {name: location for name, location in field_locations(model).items() if name in required}
    if closed:
        return {"required": [location.name for location in needed.values()]}
    alone = [location.name for location in needed.values() if not location.aliases]
    names = [
        (location.name, *(alias for place, alias in location.documented_aliases() if place == "top"))
        for location in needed.values()
        if location.aliases
    ]
    either = [{"anyOf": [{"required": [name]} for name in alternatives]} for alternatives in names]
    return ({"required": alone} if alone else {}) | ({"allOf": either} if either else {})


def _object(properties: Node, place: str, *, closed: bool) -> Node:
    node: Node = {"type": "object", "properties": properties}
    if place == "metadata":
        node["description"] = "Besides these, whatever the caller keeps here; it is neither read nor sent back."
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
    said = {key: node[key] for key in ("description", "default", "deprecated") if key in node}
    options = node["anyOf"] if "anyOf" in node else [{key: value for key, value in node.items() if key not in said}]
    return said | {"anyOf": [*options, {"type": "null"}]}


def _written(node: Node) -> Node:
    """An object of a payload: a key that may be left out is never `null`, and none has a default, for what is there was written."""
    for name, inner in node["properties"].items():
        inner.pop("default", None)
        if name not in node.get("required", ()):
            option = next(option for option in inner.pop("anyOf") if option != {"type": "null"})
            node["properties"][name] = option | inner
    node.setdefault("additionalProperties", False)
    return node


def _clean(node: Any) -> Any:
    """Leaves out what pydantic says besides: titles, which would become names of types, and the words for messages."""
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
