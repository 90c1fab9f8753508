"""Renders conversations as token ids: through the model's chat template, or as a plain transcript for base models.

Messages are kept unchanged and in order. Control tokens inside a message are encoded as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from handlers.chat.request import Message

Render = Callable[[Any, Sequence[Message]], list[int]]
"""Renders messages with a tokenizer."""

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}

BASE_MODEL_STOPS = ("\nUser:", "\nSystem:", "\nAssistant:", "<|im_start|>")
"""Stop strings for base models, which know no end-of-turn token and would go on to write the next speaker's turn."""


def render_chat_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Renders a conversation through the model's own chat template, up to the generation prompt of the assistant's turn.

    The template is rendered with a placeholder for each message, and only the text that the template itself emitted is searched for
    control tokens. An `<|im_end|>` in a message therefore cannot end the message.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: At least one message.

    Raises:
        ValueError: The template drops, repeats or reorders messages.
    """
    placeholders = [f"\ue000{index}\ue001" for index in range(len(messages))]
    masked = [{"role": message.role, "content": placeholder} for message, placeholder in zip(messages, placeholders, strict=True)]
    rendered = tokenizer.apply_chat_template(masked, tokenize=False, add_generation_prompt=True)
    if re.findall("\ue000\\d+\ue001", rendered) != placeholders:
        raise ValueError("the model's chat template does not keep every message once and in order")
    ids: list[int] = []
    for segment in _split_control_tokens(tokenizer, rendered):
        if isinstance(segment, int):
            ids.append(segment)
        else:
            text = re.sub("\ue000(\\d+)\ue001", lambda placeholder: messages[int(placeholder[1])].content, segment)
            ids += _encode_as_text(tokenizer, text)
    return ids


def _split_control_tokens(tokenizer: Any, rendered: str) -> Iterator[int | str]:
    """Yields the control tokens of a rendered template as ids, and the text between them."""
    control = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    pattern = "|".join(re.escape(content) for content in sorted(control, key=len, reverse=True))
    for part in re.split(f"({pattern})", rendered):
        if part in control:
            yield control[part]
        elif part:
            yield part


def render_transcript(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Renders a conversation as a plain transcript that a base model continues.

    There is no space after the final colon: tokenizers merge a space with the word that follows, so a trailing one is out of distribution.
    """
    turns = [message.content if message.role == "system" else f"{_SPEAKERS[message.role]}: {message.content}" for message in messages]
    return _encode_as_text(tokenizer, "\n\n".join([*turns, "Assistant:"]))


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
    other = render(tokenizer, [*system, Message(role="user", content="\ue000")])
    return next((at for at, (one, another) in enumerate(zip(ids, other, strict=False)) if one != another), min(len(ids), len(other)) - 1)


def _encode_as_text(tokenizer: Any, text: str) -> list[int]:
    """Encodes text without recognising control tokens in it.

    `split_special_tokens` covers the tokens that the tokenizer flags as special. Qwen's `<tool_call>` and others are added tokens without
    that flag; the text is split after their first character, so that they are not matched.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    pattern = "|".join(f"(?<={re.escape(content[0])})(?={re.escape(content[1:])})" for content in added if len(content) > 1)
    parts = re.split(pattern, text) if pattern else [text]
    return [token for part in parts for token in tokenizer(part, split_special_tokens=True, add_special_tokens=False).input_ids]
