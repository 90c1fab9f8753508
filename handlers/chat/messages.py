"""The messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NotRequired

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from shared.contract.fields import Text
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse

Role = Literal["system", "user", "assistant"]


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


_CALLS = ("tool_calls", "function_call", "audio")


class Message(NestedModel):
    """One message of the conversation."""

    location: ClassVar[str] = "messages[]"

    role: Annotated[
        Role,
        BeforeValidator(_canonical_role, json_schema_input_type=Literal["system", "user", "assistant", "developer"]),
        Field(description="The author of the message; `developer` means `system`."),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]),
        Field(repr=False, description="The text, as one string or as text parts, which are concatenated."),
    ]

    @model_validator(mode="before")
    @classmethod
    def _has_text_only(cls, value: object) -> object:
        """Clients send back what they have received: members without a value are absent."""
        if not isinstance(value, Mapping):
            return value
        calls = [name for name in _CALLS if value.get(name)]
        if calls:
            raise refuse(f"a message without {calls[0]}, which is not supported", sent=f"one with {calls[0]}")
        empty = {name for name in (*_CALLS, "annotations", "refusal") if not value.get(name)}
        return {name: inner for name, inner in value.items() if name not in empty}
