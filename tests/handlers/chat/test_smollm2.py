"""Real text: SmolLM2, which talks. Greedy answers are the library's, alone and with seven others; nobody's changes with its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from tests.handlers.chat.engine_fixtures import answer, ask, engine_of, generated, own_copy, texts, together

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
def talker(models: Path) -> ChatModel:
    return own_copy(models)


@pytest.fixture(scope="module")
def engine(talker: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(talker) as made:
        yield made


@pytest.mark.timeout(600)
def test_greedy_answers_are_the_librarys_alone_and_with_seven_others(engine: BatchingEngine, talker: ChatModel) -> None:
    expected = [generated(talker, request).rstrip("�") for request in GREEDY]
    assert "Paris" in expected[0]
    assert [answer(engine, request).text for request in GREEDY] == expected
    assert texts(together(engine, GREEDY)) == expected


@pytest.mark.timeout(600)
def test_seeded_answers_are_the_same_next_to_others(engine: BatchingEngine) -> None:
    alone = [answer(engine, request).text for request in SEEDED]
    assert texts(together(engine, [*SEEDED, *GREEDY]))[: len(SEEDED)] == alone
