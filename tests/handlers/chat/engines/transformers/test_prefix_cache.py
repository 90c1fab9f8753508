"""The prefix cache: system prompts are prefilled once, and completions do not depend on cache hits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.kv_cache import KVCache
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.prefix_cache import PrefixCache
from handlers.chat.request import ChatRequest
from tests.handlers.chat.engine_fixtures import (
    ask,
    complete,
    complete_concurrently,
    engine_of,
    generate_with_transformers,
    load_copy,
    texts,
)

SYSTEM = "You are a kind heron. " * 12
WORDS = ("hello", "why?", "tell me more", "one two three four")
REQUESTS = [ask(words, system=SYSTEM) for words in WORDS]
SEEDED = [ask(words, system=SYSTEM, temperature=1.0, top_p=1.0, seed=7) for words in WORDS]


@pytest.fixture
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    """An engine with an empty prefix cache."""
    with engine_of(instruct) as engine:
        yield engine


def test_a_system_prompt_is_prefilled_once(engine: TransformersEngine) -> None:
    first, *others = [complete(engine, request) for request in REQUESTS]
    assert first.cached_tokens == 0
    (cached_tokens,) = {completion.cached_tokens for completion in others}
    assert 0.7 * first.prompt_tokens < cached_tokens < first.prompt_tokens


def test_a_system_prompt_is_prefilled_once_for_concurrent_requests(engine: TransformersEngine) -> None:
    ends = [end for end in complete_concurrently(engine, REQUESTS) if isinstance(end, Completion)]
    assert sorted(end.cached_tokens > 0 for end in ends) == [False, True, True, True]


@pytest.mark.parametrize("requests", [REQUESTS, SEEDED], ids=["greedy", "seeded"])
def test_completions_are_the_same_on_a_hit_and_on_a_miss(instruct: ChatModel, requests: list[ChatRequest]) -> None:
    misses = []
    for request in requests:
        with engine_of(instruct) as engine:
            misses.append(complete(engine, request).text)
    with engine_of(instruct) as engine:
        assert [complete(engine, request).text for request in (*requests, *requests)] == misses * 2
        assert texts(complete_concurrently(engine, requests)) == misses


def test_completions_with_a_shared_prefix_match_transformers(engine: TransformersEngine, instruct: ChatModel) -> None:
    for request in REQUESTS:
        assert complete(engine, request).text.rstrip("�") == generate_with_transformers(instruct, request).rstrip("�")


def test_prefixes_are_cached_per_model(instruct: ChatModel, tiny_models: Path) -> None:
    with engine_of(instruct, load_copy(tiny_models, "qwen_base")) as engine:
        complete(engine, REQUESTS[0])
        assert complete(engine, ask(system=SYSTEM, model="qwen_base")).cached_tokens == 0


def test_a_short_prefix_is_not_cached(engine: TransformersEngine) -> None:
    assert [complete(engine, ask(system="Be kind.")).cached_tokens for _ in range(2)] == [0, 0]


def test_the_least_recently_used_prefix_is_evicted() -> None:
    prefixes, caches = PrefixCache(10), [KVCache(1, 1, 4) for _ in range(4)]
    ids = [(number,) * 4 for number in range(4)]
    prefixes.put(ids[0], caches[0])
    prefixes.put(ids[1], caches[1])
    assert prefixes.get(ids[0]) is caches[0]
    prefixes.put(ids[2], caches[2])
    assert [prefixes.get(prefix) for prefix in ids[:3]] == [caches[0], None, caches[2]]


def test_a_prefix_larger_than_the_cache_is_not_cached(instruct: ChatModel, engine: TransformersEngine) -> None:
    (entry,) = engine._pool._entries.values()
    long = SYSTEM * 3
    with engine_of(instruct, budget=entry.bytes_per_token * 5000) as small:
        first, again = (complete(small, ask(system=long)) for _ in range(2))
    assert (first.text, again.cached_tokens) == (again.text, 0)
