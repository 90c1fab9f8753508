"""Prompts: each conversation is tokenised once between validation and submission, and few prompts are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from handlers.chat import prompt_renderer
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.messages import Message
from handlers.chat.prompt_renderer import PromptRenderer
from handlers.chat.prompts import render_chat_template
from shared.errors import ContextLengthExceeded
from tests.handlers.chat.engine_fixtures import ask, complete, engine_of


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Receives the last message of every conversation that is rendered."""
    contents: list[str] = []

    def render(tokenizer: Any, messages: Sequence[Message], **options: Any) -> list[int]:
        contents.append(messages[-1].content)
        return render_chat_template(tokenizer, messages, **options)

    monkeypatch.setattr(prompt_renderer, "render_chat_template", render)
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
        assert not engine._pool.chat_format("qwen_instruct").prompts._kept


def test_the_number_of_kept_prompts_is_limited(instruct: ChatModel, rendered: list[str]) -> None:
    prompts = PromptRenderer(instruct.tokenizer, transcript=False)
    requests = [ask(f"number {number}") for number in range(70)]
    for request in requests:
        prompts.check(request, 2048)
    rendered.clear()
    for request in requests:
        prompts.take(request)
    assert rendered == [f"number {number}" for number in range(6)]
