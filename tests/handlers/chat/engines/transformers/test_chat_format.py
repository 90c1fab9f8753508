"""Chat formats: each conversation is tokenised once between validation and submission, and few prompts are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from handlers.chat.engines.transformers import chat_format
from handlers.chat.engines.transformers.chat_format import ChatFormat
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.messages import Message
from handlers.chat.prompts import render_chat_template
from shared.errors import ContextLengthExceeded
from tests.handlers.chat.engine_fixtures import ask, complete, engine_of


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Receives the last message of every conversation that is rendered."""
    contents: list[str] = []

    def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
        contents.append(messages[-1].content)
        return render_chat_template(tokenizer, messages)

    monkeypatch.setattr(chat_format, "render_chat_template", render)
    return contents


def test_a_conversation_is_tokenised_once_per_job(instruct: ChatModel, rendered: list[str]) -> None:
    with engine_of(instruct) as engine:
        for _ in range(2):
            complete(engine, ask("hello", max_tokens=2))
    assert rendered == ["hello", "hello"]


def test_the_prompt_of_a_rejected_request_is_not_kept(instruct: ChatModel) -> None:
    with engine_of(instruct) as engine:
        with pytest.raises(ContextLengthExceeded):
            engine.check(ask("hello " * 2000))
        assert not engine._pool.chat_format("qwen_instruct")._kept


def test_the_number_of_kept_prompts_is_limited(instruct: ChatModel, rendered: list[str]) -> None:
    kept = ChatFormat(instruct, transcript=False)
    conversations = [ask(f"number {number}").messages for number in range(70)]
    for messages in conversations:
        kept.keep(messages, kept.render(messages))
    rendered.clear()
    for messages in conversations:
        kept.render(messages)
    assert rendered == [f"number {number}" for number in range(6)]
