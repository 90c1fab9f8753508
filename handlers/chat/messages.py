"""The messages of a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from handlers.chat.response_format import limit_size
from handlers.chat.tools.fields import FunctionName
from shared.contract.fields import Text
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse, requires

Role = Literal["system", "user", "assistant", "tool"]
_MAX_CALLS = 128


class TextPart(TypedDict):
    """A text part of a message."""

    type: NotRequired[Literal["text"]]
    text: str


def _join_parts(content: object) -> object:
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") in (None, "text") else None for part in content]
    joined = [text for text in texts if isinstance(text, str)]
    if not texts or len(joined) < len(texts):
        raise refuse('a string, or a list of text parts such as {"type": "text", "text": "…"}')
    return "".join(joined)


def _canonical_role(role: object) -> object:
    return "system" if isinstance(role, str) and role == "developer" else role


class CalledFunction(NestedModel):
    """A call that the model has made before."""

    location: ClassVar[str] = "messages[].tool_calls[].function"

    name: Annotated[FunctionName, Field(description="The name of the function.")]
    arguments: Annotated[Text, Field(repr=False, description="Its arguments: a JSON object, as text.")]


class MessageToolCall(NestedModel):
    """A tool call in a message of the assistant."""

    location: ClassVar[str] = "messages[].tool_calls[]"

    id: Annotated[Text | None, Field(max_length=256, description="Its id, to which the message with its result refers.")] = None
    type: Annotated[Literal["function"], Field(description="The kind of tool.")] = "function"
    function: Annotated[CalledFunction, Field(description="The call.")]


_UNSUPPORTED = ("function_call", "audio")
_OPTIONAL = (*_UNSUPPORTED, "tool_calls", "annotations", "refusal")


class Message(NestedModel):
    """One message of the conversation."""

    location: ClassVar[str] = "messages[]"

    role: Annotated[
        Role,
        BeforeValidator(_canonical_role, json_schema_input_type=Literal["system", "user", "assistant", "tool", "developer"]),
        Field(description="The author of the message; `developer` means `system`, and `tool` the result of a call."),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]),
        Field(repr=False, description="The text, as one string or as text parts, which are concatenated. Optional beside `tool_calls`."),
    ]
    name: Annotated[Text | None, Field(max_length=256, repr=False, description="The author's name, for templates that use it.")] = None
    tool_calls: Annotated[
        tuple[MessageToolCall, ...],
        Field(strict=False, max_length=_MAX_CALLS, description="Role `assistant`: the calls that the model has made."),
    ] = ()
    tool_call_id: Annotated[
        Text | None, Field(repr=False, max_length=256, description="Role `tool`: the call that this is the result of.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _drops_empty_members(cls, value: object) -> object:
        """Clients send back what they have received: members without a value are absent."""
        if not isinstance(value, Mapping):
            return value
        named = [name for name in _UNSUPPORTED if value.get(name)]
        if named:
            raise refuse(f"a message without {named[0]}, which is not supported", sent=f"one with {named[0]}")
        kept = {name: inner for name, inner in value.items() if name not in _OPTIONAL or inner}
        return kept | {"content": ""} if kept.get("tool_calls") and kept.get("content") is None else kept

    @property
    def uses_tools(self) -> bool:
        """Whether it is part of a conversation with tool calls."""
        return self.role == "tool" or bool(self.tool_calls)

    def to_template(self, transform: Callable[[str], str]) -> dict[str, Any]:
        """Returns the message as chat templates expect it, with its texts transformed.

        Args:
            transform: Is applied to every text but the role.
        """
        turn: dict[str, Any] = {"role": self.role, "content": transform(self.content)}
        if self.name is not None:
            turn["name"] = transform(self.name)
        if self.tool_call_id is not None:
            turn["tool_call_id"] = transform(self.tool_call_id)
        if self.tool_calls:
            turn["tool_calls"] = [_call_to_template(call, transform) for call in self.tool_calls]
        return turn


def ensure_consistent(messages: Iterable[Message]) -> None:
    """Checks what a message says of tools.

    Raises:
        PydanticCustomError: It does not suit its role, or the arguments of a call are not a JSON object.
    """
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.tool_calls and message.role != "assistant":
            raise requires(f"{path}.tool_calls", f'{path}.role: "assistant"')
        if message.role == "tool" and message.tool_call_id is None:
            raise requires(f'{path}.role: "tool"', f"{path}.tool_call_id")
        if message.tool_call_id is not None and message.role != "tool":
            raise requires(f"{path}.tool_call_id", f'{path}.role: "tool"')
        for call in message.tool_calls:
            _ensure_object(call.function.arguments, path)


def _ensure_object(arguments: str, path: str) -> None:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise refuse(f"a list in which the arguments of calls are JSON objects, as text: {path}.tool_calls", sent="other arguments")
    limit_size(value, "arguments of calls")


def _call_to_template(call: MessageToolCall, transform: Callable[[str], str]) -> dict[str, Any]:
    # Templates expect the arguments as an object.
    function = {"name": call.function.name, "arguments": transform_texts(json.loads(call.function.arguments or "{}"), transform)}
    return {"type": call.type, "function": function} | ({} if call.id is None else {"id": transform(call.id)})


def transform_texts(value: Any, transform: Callable[[str], str], *, keys: bool = True) -> Any:
    """Returns a JSON value with its texts transformed.

    Args:
        value: The value.
        transform: Is applied to every text.
        keys: Whether it is applied to the keys of objects, too.
    """
    if isinstance(value, str):
        return transform(value)
    if isinstance(value, dict):
        return {transform(key) if keys else key: transform_texts(inner, transform, keys=keys) for key, inner in value.items()}
    return [transform_texts(inner, transform, keys=keys) for inner in value] if isinstance(value, list) else value
