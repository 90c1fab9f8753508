"""Continuous batching with SmolLM2, a trained model: greedy completions match transformers, and none depends on its batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from tests.handlers.chat.engine_fixtures import (
    ask,
    complete,
    complete_concurrently,
    engine_of,
    generate_with_transformers,
    load_copy,
    texts,
)

pytestmark = pytest.mark.slow

QUESTIONS = (
    "What is the capital of France?",
    "Name three birds.",
    "Write a haiku about snow.",
    "What is 2 + 2?",
    "Who wrote Hamlet?",
    "Tell me a joke about a heron.",
    "Why is the sky blue? Answer in one sentence.",
    "Zähle drei Farben auf. 🦢",
)
GREEDY = [ask(question, max_tokens=8 + 3 * index) for index, question in enumerate(QUESTIONS)]
SEEDED = [ask(question, max_tokens=12, temperature=0.8, top_p=0.95, seed=index) for index, question in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def smollm2(models: Path) -> ChatModel:
    return load_copy(models)


@pytest.fixture(scope="module")
def engine(smollm2: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(smollm2) as engine:
        yield engine


@pytest.mark.timeout(600)
def test_greedy_completions_match_transformers_alone_and_in_a_batch_of_eight(engine: TransformersEngine, smollm2: ChatModel) -> None:
    expected = [generate_with_transformers(smollm2, request).rstrip("�") for request in GREEDY]
    assert "Paris" in expected[0]
    assert [complete(engine, request).text for request in GREEDY] == expected
    assert texts(complete_concurrently(engine, GREEDY)) == expected


@pytest.mark.timeout(600)
def test_seeded_completions_do_not_depend_on_the_batch(engine: TransformersEngine) -> None:
    alone = [complete(engine, request).text for request in SEEDED]
    assert texts(complete_concurrently(engine, [*SEEDED, *GREEDY]))[: len(SEEDED)] == alone
