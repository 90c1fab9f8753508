"""Messages become token ids, unchanged and in order. Control tokens that somebody typed stay text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from handlers.chat.request import Message

Render = Callable[[Any, Sequence[Message]], list[int]]

_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}

BASE_STOPS = ("\nUser:", "\nSystem:", "\nAssistant:", "<|im_start|>")
"""Where a base model begins to write somebody else's turn: it knows no end of a turn, only the end of a text."""


def render_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Renders a conversation through the model's own chat template, up to where the assistant's answer begins.

    The template is rendered with a mark in place of each message, and only what the template itself wrote is searched for control tokens.
    So `<|im_end|>` in a message cannot end the message.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: At least one.

    Raises:
        ValueError: The template leaves a message out.
    """
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    marked = [{"role": message.role, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    rendered = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
    if re.findall("\ue000\\d+\ue001", rendered) != marks:
        raise ValueError("the model's chat template does not keep every message once and in order")
    ids: list[int] = []
    for run in _runs(tokenizer, rendered):
        if isinstance(run, int):
            ids.append(run)
        else:
            text = re.sub("\ue000(\\d+)\ue001", lambda mark: messages[int(mark[1])].content, run)
            ids += _encode(tokenizer, text)
    return ids


def _runs(tokenizer: Any, rendered: str) -> Iterator[int | str]:
    """The template's control tokens as ids, and what is between them as text."""
    control = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    pattern = "|".join(re.escape(content) for content in sorted(control, key=len, reverse=True))
    for part in re.split(f"({pattern})", rendered):
        if part in control:
            yield control[part]
        elif part:
            yield part


def render_transcript(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Renders a conversation for a base model: a plain transcript that it goes on with.

    No space after the last colon: tokenizers join a space to the word that follows it, and a lone one leads the model astray.
    """
    turns = [message.content if message.role == "system" else f"{_NAMES[message.role]}: {message.content}" for message in messages]
    return _encode(tokenizer, "\n\n".join([*turns, "Assistant:"]))


def shared_beginning(render: Render, tokenizer: Any, messages: Sequence[Message], ids: Sequence[int]) -> int:
    """Says how many tokens of a prompt come before its first message that is not of role system.

    Other requests with the same system message begin with the same tokens.

    Args:
        render: What rendered it.
        tokenizer: The model's.
        messages: The conversation.
        ids: The conversation, rendered.

    Returns:
        0 where there is no system message.
    """
    system = list(takewhile(lambda message: message.role == "system", messages))
    if not system or len(system) == len(messages):
        return 0
    # The same with another message after it: what both have in common is what does not depend on that message.
    other = render(tokenizer, [*system, Message(role="user", content="\ue000")])
    return next((at for at, (one, another) in enumerate(zip(ids, other, strict=False)) if one != another), min(len(ids), len(other)) - 1)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Encodes text in which nothing is a control token.

    `split_special_tokens` does that for the tokens that a tokenizer calls special. Qwen's `<tool_call>` and others are added tokens that it
    does not call so; they are taken apart after their first character.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    pattern = "|".join(f"(?<={re.escape(content[0])})(?={re.escape(content[1:])})" for content in added if len(content) > 1)
    pieces = re.split(pattern, text) if pattern else [text]
    return [token for piece in pieces for token in tokenizer(piece, split_special_tokens=True, add_special_tokens=False).input_ids]
