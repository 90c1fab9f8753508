"""The context window: a default of `max_tokens` gives way, a sent one does not, and what cannot fit is not tokenised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.request import ChatRequest
from shared.errors import ContextLengthExceeded
from tests.handlers.chat.engine_fixtures import ask, complete, engine_of

WINDOW = 2048


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        assert engine.models["qwen_instruct"].context_length == WINDOW
        yield engine


def filling(engine: TransformersEngine, left: int, **fields: Any) -> ChatRequest:
    """A request whose prompt leaves so many tokens of the window."""
    prompts = engine._pool.chat_format("qwen_instruct").prompts
    overhead, one, two = (len(prompts.take(ask(content)).ids) for content in ("", "x", "x x"))
    per_word = two - one
    words = ["x"] * ((WINDOW - left - overhead - 1) // per_word + 1)
    return ChatRequest.parse({"messages": [{"role": "user", "content": " ".join(words)}], "temperature": 0, **fields}, job_id="j")


@pytest.mark.parametrize("absent", [{}, {"max_tokens": None}])
def test_an_absent_max_tokens_takes_what_is_left(engine: TransformersEngine, absent: dict[str, Any]) -> None:
    end = complete(engine, filling(engine, 6, repetition_penalty=0.5, **absent))
    assert end.prompt_tokens + end.completion_tokens <= WINDOW
    assert end.completion_tokens > 0


def test_a_sent_max_tokens_that_does_not_fit_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(ContextLengthExceeded, match="512"):
        engine.check(filling(engine, 6, max_tokens=512))


@pytest.mark.parametrize("content", ["word " * 2_000_000, "x" * 9_000_000, "\U0001f9a2" * 2_000_000])
def test_a_prompt_that_cannot_fit_is_not_tokenised_to_its_end(engine: TransformersEngine, content: str) -> None:
    before = time.thread_time()
    with pytest.raises(ContextLengthExceeded, match="at least"):
        engine.check(ask(content))
    assert time.thread_time() - before < 1.0
