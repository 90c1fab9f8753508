"""A system prompt is read once, and nobody can tell from an answer whether it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.chat.engine import Finished
from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.kv_cache import RowCache
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.prefix_cache import Prefixes
from tests.handlers.chat.engine_fixtures import answer, ask, engine_of, generated, own_copy, texts, together

SYSTEM = "You are a kind heron. " * 12
WORDS = ("hello", "why?", "tell me more", "one two three four")
REQUESTS = [ask(words, system=SYSTEM) for words in WORDS]
SEEDED = [ask(words, system=SYSTEM, temperature=1.0, top_p=1.0, seed=7) for words in WORDS]


@pytest.fixture
def engine(instruct: ChatModel) -> Iterator[BatchingEngine]:
    """One that has read nothing yet."""
    with engine_of(instruct) as made:
        yield made


def test_it_is_read_once_for_all_who_have_it(engine: BatchingEngine) -> None:
    answers = [answer(engine, request) for request in REQUESTS]
    read = {end.cached_tokens for end in answers[1:]}
    assert answers[0].cached_tokens == 0
    assert len(read) == 1
    assert 0.7 * answers[0].prompt_tokens < read.pop() < answers[0].prompt_tokens


def test_also_for_all_who_come_at_once(engine: BatchingEngine) -> None:
    ends = [end for end in together(engine, REQUESTS) if isinstance(end, Finished)]
    assert sorted(end.cached_tokens > 0 for end in ends) == [False, True, True, True]


@pytest.mark.parametrize("requests", [REQUESTS, SEEDED], ids=["greedy", "seeded"])
def test_answers_are_the_same_with_it_and_without(instruct: ChatModel, requests: list[object]) -> None:
    fresh = []
    for request in requests:
        with engine_of(instruct) as alone:
            fresh.append(answer(alone, request).text)  # type: ignore[arg-type]
    with engine_of(instruct) as engine:
        again = [answer(engine, request).text for request in (*requests, *requests)]  # type: ignore[arg-type]
        assert again == fresh * 2
        assert texts(together(engine, requests)) == fresh  # type: ignore[arg-type]


def test_answers_are_those_of_the_library(engine: BatchingEngine, instruct: ChatModel) -> None:
    for request in REQUESTS:
        assert answer(engine, request).text.rstrip("�") == generated(instruct, request).rstrip("�")


def test_it_is_read_by_its_own_model_only(instruct: ChatModel, tiny_models: Path) -> None:
    with engine_of(instruct, own_copy(tiny_models, "qwen_base")) as engine:
        answer(engine, REQUESTS[0])
        assert answer(engine, ask(system=SYSTEM, model="qwen_base")).cached_tokens == 0


def test_a_short_one_is_not_worth_it(engine: BatchingEngine) -> None:
    assert [answer(engine, ask(system="Be kind.")).cached_tokens for _ in range(2)] == [0, 0]


def test_those_that_were_not_used_for_longest_are_forgotten() -> None:
    prefixes, caches = Prefixes(10), [RowCache(1, 1, 4) for _ in range(4)]
    ids = [(number,) * 4 for number in range(4)]
    prefixes.put(ids[0], caches[0])
    prefixes.put(ids[1], caches[1])
    assert prefixes.get(ids[0]) is caches[0]
    prefixes.put(ids[2], caches[2])
    assert [prefixes.get(wanted) for wanted in ids[:3]] == [caches[0], None, caches[2]]


def test_one_that_is_larger_than_all_the_room_is_read_each_time(instruct: ChatModel, engine: BatchingEngine) -> None:
    (known,) = engine._models._known.values()
    long = SYSTEM * 3
    with engine_of(instruct, budget=known.bytes_per_token * 5000) as small:
        first, again = (answer(small, ask(system=long)) for _ in range(2))
    assert (first.text, again.cached_tokens) == (again.text, 0)
