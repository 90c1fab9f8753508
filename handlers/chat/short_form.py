"""The operator's settings for chat requests, and the fields of the short form: a prompt instead of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationInfo

from handlers.chat.messages import Message, Role
from shared.contract.context import Context, Operator
from shared.contract.names import Vocabulary
from shared.contract.rejections import refuse

CHATS = ("chat", "chat_conversation", "generate")
ENHANCEMENTS = ("enhance", "chat_enhance", "enhance_base", "enhance_instruct")

MODELS = ("qwen_instruct", "qwen_base")
"""The default names of the instruct model and the base model."""


@dataclass(frozen=True)
class ChatOperator(Operator):
    """The operator settings that chat requests are validated against.

    Attributes:
        models: The names of the instruct model and the base model.
    """

    models: tuple[str, str] = MODELS


EnhancementType = Literal["base", "instruct"]
_ENHANCEMENT_NAMES: Mapping[object, EnhancementType] = {
    "base": "base",
    "instruct": "instruct",
    "creative": "base",
    "adult": "base",
    "conversational": "instruct",
}
EnhancementName = Literal["base", "instruct", "creative", "adult", "conversational"]


def messages_from_short_form(data: Mapping[str, Any], _: Context) -> list[Message]:
    """Returns the conversation of a request without `messages`."""
    if "completion_prompt" not in data:  # it is invalid, and reported itself
        return [Message(role="user", content="")]
    if data["completion_prompt"] is not None:
        return [Message(role="user", content=data["completion_prompt"])]
    if "prompt" in data and data["prompt"] is None:
        raise refuse("a list of objects with `role` and `content`, unless `prompt` is given")
    turns: list[tuple[Role, str | None]] = [("system", data.get("system_prompt")), ("user", data.get("prompt", ""))]
    return [Message(role=role, content=content) for role, content in turns if content is not None]


def enhancement_from_type(data: Mapping[str, Any], _: Context) -> EnhancementType | None:
    """Returns the kind of enhancement that the job's type implies; None for a chat."""
    if data.get("type") not in ENHANCEMENTS:
        return None
    return "base" if data["type"] == "enhance_base" else "instruct"


def canonical_enhancement(word: object) -> object:
    """Returns the kind of enhancement that a word means."""
    return _ENHANCEMENT_NAMES.get(word, word) if isinstance(word, str) else word


def model_for_enhancement(data: Mapping[str, Any], context: Context) -> str:
    """Returns the model of a request that names none."""
    instruct, base = ChatOperator.of(context.operator).models
    return base if data.get("enhancement_type") == "base" else instruct


def canonical_model(name: str, info: ValidationInfo) -> str:
    """Returns the operator's name of a model.

    Raises:
        PydanticCustomError: There is no such model.
    """
    own = ChatOperator.of(Context.of(info).operator).models
    known = dict(zip((*MODELS, *own), (*own, *own), strict=True))
    if name not in known:
        allowed = tuple(dict.fromkeys(own))
        raise refuse(f"one of {', '.join(allowed)}", nearest=Vocabulary(zip(allowed, allowed, strict=True)).nearest(name))
    return known[name]
