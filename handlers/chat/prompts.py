"""Renders conversations as token ids: through the model's chat template, or as a plain transcript for base models.

A template may trim, merge or drop messages: it is followed. Control tokens inside a message are encoded as plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from handlers.chat.control_tokens import ControlTokens, TokenMask
from handlers.chat.messages import Message, transform_texts
from handlers.chat.structured.sandbox import LimitExceeded
from handlers.chat.template_renderer import TemplateRejected, template_renderer
from handlers.chat.tools.fields import Tool
from shared.errors import Problem, ValidationError

Render = Callable[[Sequence[Message]], list[int]]
"""Renders messages."""

_MAX_SENTENCE = 300  # characters of a template's message
_MIN_QUOTED = 4  # characters; a shorter message may occur in a sentence by chance
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class TemplateRejection(Problem):
    """A conversation that the model's chat template rejects. `sent` is the template's sentence."""

    def __str__(self) -> str:
        return f"`{self.field}` was rejected by the model's chat template: {self.sent}"


BASE_MODEL_STOPS = ("\nUser:", "\nSystem:", "\nAssistant:", "<|im_start|>")
"""Stop strings for base models, which know no end-of-turn token and would go on to write the next speaker's turn."""


def render_chat_template(tokenizer: Any, messages: Sequence[Message], *, continues: bool = False, tools: Sequence[Tool] = ()) -> list[int]:
    """Renders a conversation through the model's own chat template, as transformers does, and encodes it.

    The template is rendered with the control tokens of messages masked. An `<|im_end|>` in a message therefore cannot end the message.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: At least one message.
        continues: Whether the last message, of the assistant, is continued instead of answered.
        tools: The tools that the model may call.

    Raises:
        ValidationError: The template rejects the conversation.
    """
    control = ControlTokens(tokenizer)
    apply = partial(_apply, tokenizer, _Conversation(messages, tools, continues))
    mask = TokenMask(control.all)
    masked = apply(mask.mask)
    if not mask.used:
        ids: list[int] = tokenizer(masked, add_special_tokens=False).input_ids
        return ids
    exact = apply(str)
    if mask.restore(masked) == exact:
        return control.encode(masked, mask.restore)
    # The template reads tokens such as `</think>`. Those that are flagged special stay masked. The others are text, except before the first
    # message that has one and after the last: there they are the template's own, such as the `<think>` with which a completion starts.
    mask = TokenMask(control.special)
    rendered = apply(mask.mask)
    plain = TokenMask(control.all - control.special)
    start, end = _common_ends(masked, rendered)
    middle = plain.mask(rendered[start : len(rendered) - end])
    return control.encode(rendered[:start] + middle + rendered[len(rendered) - end :], lambda text: mask.restore(plain.restore(text)))


def _common_ends(one: str, other: str) -> tuple[int, int]:
    """Returns how many characters two texts have in common at their start, and at their end beyond that."""
    start = _common_length(one, other)
    return start, _common_length(one[start:][::-1], other[start:][::-1])


def _common_length(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class _Conversation:
    messages: Sequence[Message]
    tools: Sequence[Tool]
    continues: bool


def _apply(tokenizer: Any, conversation: _Conversation, transform: Callable[[str], str]) -> str:
    """Renders the template with the texts of messages and tools transformed."""
    messages = conversation.messages
    turns = [message.to_template(transform) for message in messages]
    tools = [{"type": tool.type, "function": transform_texts(tool.function.to_template(), transform)} for tool in conversation.tools]
    try:
        template = tokenizer.get_chat_template(tools=tools or None)
        variables = tokenizer.special_tokens_map
        return template_renderer().render(template, turns, variables, continues=conversation.continues, tools=tools)
    except TemplateRejected as error:
        sentence = _sentence(str(error), messages)
    except LimitExceeded:
        sentence = "it exceeds its limits of time, memory or length"
    raise ValidationError([TemplateRejection("messages", sentence, "")])


def _sentence(text: str, messages: Sequence[Message]) -> str:
    """Returns the template's own sentence without anything that a message says."""
    sentence = text.strip() or "it cannot render these roles and contents"
    for content in {message.content for message in messages if len(message.content) >= _MIN_QUOTED}:
        sentence = sentence.replace(content, "…")
    return sentence[:_MAX_SENTENCE]


def render_transcript(tokenizer: Any, messages: Sequence[Message], *, continues: bool = False) -> list[int]:
    """Renders a conversation without tools as a plain transcript that a base model continues.

    There is no space after the final colon: tokenizers merge a space with the word that follows, so a trailing one is out of distribution.
    """
    turns = [message.content if message.role == "system" else f"{_SPEAKERS[message.role]}: {message.content}" for message in messages]
    return ControlTokens(tokenizer).encode_as_text("\n\n".join(turns if continues else [*turns, "Assistant:"]))


def shared_prefix_length(render: Render, messages: Sequence[Message], ids: Sequence[int]) -> int:
    """Returns the number of leading tokens that do not depend on anything after the system messages.

    Requests with the same system prompt and the same tools share this prefix.

    Args:
        render: Renders messages as the prompt was rendered.
        messages: The conversation.
        ids: The rendered prompt.

    Returns:
        0 if all messages are of role system.
    """
    system = list(takewhile(lambda message: message.role == "system", messages))
    if len(system) == len(messages):
        return 0
    # With another user message in place of the rest, only the tokens that depend on the system prompt alone stay the same.
    try:
        other = render([*system, Message(role="user", content="\ue000")])
    except ValidationError:  # the template requires more
        return 0
    return next((at for at, (one, another) in enumerate(zip(ids, other, strict=False)) if one != another), min(len(ids), len(other)) - 1)
