"""Renders conversations as token ids: through the model's chat template, or as a plain transcript for base models.

A template may trim, merge or drop messages: it is followed. Control tokens inside a message are encoded as plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from handlers.chat.control_tokens import ControlTokens, TokenMask
from handlers.chat.messages import Message
from handlers.chat.structured.sandbox import LimitExceeded
from handlers.chat.template_renderer import TemplateRejected, template_renderer
from shared.errors import Problem, ValidationError

Render = Callable[[Any, Sequence[Message]], list[int]]
"""Renders messages with a tokenizer."""

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


def render_chat_template(tokenizer: Any, messages: Sequence[Message], *, continues: bool = False) -> list[int]:
    """Renders a conversation through the model's own chat template, as transformers does, and encodes it.

    The template is rendered with the control tokens of messages masked. An `<|im_end|>` in a message therefore cannot end the message.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: At least one message.
        continues: Whether the last message, of the assistant, is continued instead of answered.

    Raises:
        ValidationError: The template rejects the conversation.
    """
    control = ControlTokens(tokenizer)
    mask = TokenMask(control.all)
    rendered = _apply(tokenizer, messages, mask.mask, continues)
    if not mask.used:
        ids: list[int] = tokenizer(rendered, add_special_tokens=False).input_ids
        return ids
    exact = _apply(tokenizer, messages, str, continues)
    if mask.restore(rendered) == exact:
        return control.encode(rendered, mask.restore)
    # The template reads tokens such as `</think>`. Those that are flagged special stay masked, and the others are text.
    mask = TokenMask(control.special)
    rendered = _apply(tokenizer, messages, mask.mask, continues)
    plain = TokenMask(control.all - control.special)
    return control.encode(plain.mask(rendered), lambda text: mask.restore(plain.restore(text)))


def _apply(tokenizer: Any, messages: Sequence[Message], transform: Callable[[str], str], continues: bool) -> str:
    """Renders the template with transformed contents."""
    turns = [{"role": message.role, "content": transform(message.content)} for message in messages]
    try:
        return template_renderer().render(tokenizer.get_chat_template(), turns, tokenizer.special_tokens_map, continues=continues)
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
    """Renders a conversation as a plain transcript that a base model continues.

    There is no space after the final colon: tokenizers merge a space with the word that follows, so a trailing one is out of distribution.
    """
    turns = [message.content if message.role == "system" else f"{_SPEAKERS[message.role]}: {message.content}" for message in messages]
    return ControlTokens(tokenizer).encode_as_text("\n\n".join(turns if continues else [*turns, "Assistant:"]))


def shared_prefix_length(render: Render, tokenizer: Any, messages: Sequence[Message], ids: Sequence[int]) -> int:
    """Returns the number of leading tokens that do not depend on anything after the system messages.

    Requests with the same system prompt share this prefix.

    Args:
        render: The function that rendered the prompt.
        tokenizer: The model's tokenizer.
        messages: The conversation.
        ids: The rendered prompt.

    Returns:
        0 if there is no system prompt.
    """
    system = list(takewhile(lambda message: message.role == "system", messages))
    if not system or len(system) == len(messages):
        return 0
    # With another user message in place of the rest, only the tokens that depend on the system prompt alone stay the same.
    try:
        other = render(tokenizer, [*system, Message(role="user", content="\ue000")])
    except ValidationError:  # the template requires more
        return 0
    return next((at for at, (one, another) in enumerate(zip(ids, other, strict=False)) if one != another), min(len(ids), len(other)) - 1)
