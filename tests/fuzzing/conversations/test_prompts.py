"""Prompts of all templates and tokenizers: as transformers renders them, and no text of a message becomes a control token."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from handlers.chat.messages import Message
from handlers.chat.prompts import render_chat_template
from tests.fuzzing.conversations.models import KINDS, tokenizer_for
from tests.fuzzing.conversations.templates import TEMPLATES
from tests.fuzzing.conversations.texts import random_text

COMBINATIONS = [(kind, name) for name in TEMPLATES for kind in KINDS]
ROLES = ("user", "assistant", "user")
HARMLESS = ("hello", " a\n", "hello <", "a\n<", " x <|", "<|im_", "é\u2581 <", "[", "</", "\ue0000\ue001")
"""Texts without a control token, some of which end or begin like one."""


def conversation(texts: Sequence[str]) -> list[Message]:
    return [Message(role=role, content=text) for role, text in zip(ROLES, texts, strict=True)]  # type: ignore[arg-type]


def rendered_by_transformers(tokenizer: Any, messages: list[Message]) -> list[int]:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_a_conversation_without_control_tokens_is_tokenised_as_transformers_does(kind: str, name: str) -> None:
    tokenizer, random = tokenizer_for(kind, TEMPLATES[name]), Random(f"{kind}, {name}")
    for _ in range(5):
        messages = conversation([random.choice(HARMLESS) + random.choice(("", "b")) for _ in ROLES])
        assert render_chat_template(tokenizer, messages) == rendered_by_transformers(tokenizer, messages)


@pytest.mark.parametrize(("kind", "name"), COMBINATIONS)
def test_no_text_of_a_message_becomes_a_control_token(kind: str, name: str) -> None:
    template, random = TEMPLATES[name], Random(f"{kind}, {name}")
    tokenizer = tokenizer_for(kind, template)
    control = set(tokenizer.convert_tokens_to_ids(["<s>", "</s>", *template.special, *template.added]))

    def control_tokens(texts: Sequence[str]) -> list[int]:
        return [token for token in render_chat_template(tokenizer, conversation(texts)) if token in control]

    expected = control_tokens(["x", "x", "x"])
    for _ in range(5):
        assert control_tokens([f"x{random_text(random, template)[:300]}y" for _ in ROLES]) == expected
