"""Two models: both in memory, or the one that is needed, and whoever asks gets the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import pytest
import torch

from handlers.chat.batching.engine import BatchingEngine
from handlers.chat.batching.memory import choose_residency
from handlers.chat.engine import Finished
from shared.contract.chat import ChatRequest
from shared.models.language import ChatModel
from tests.handlers.chat_engines import answer, ask, engine_of, own_copy, texts, together

Alone = Callable[[Sequence[ChatRequest]], list[str]]

CHAT = ask("hello")
BASE = ask("hello", model="qwen_base")
SEEDED = ask("a heron", model="qwen_base", temperature=1.0, top_p=1.0, seed=7)


def enhancement(kind: str) -> ChatRequest:
    return ChatRequest.parse({"type": kind, "prompt": "a heron", "max_tokens": 16, "temperature": 0}, job_id="j")


@pytest.fixture(scope="module")
def base(tiny_models: Path) -> ChatModel:
    return own_copy(tiny_models, "qwen_base")


@pytest.fixture(scope="module")
def both(instruct: ChatModel, base: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(instruct, base) as engine:
        yield engine


@pytest.fixture(scope="module")
def one(instruct: ChatModel, base: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(instruct, base, resident="one") as engine:
        yield engine


@pytest.fixture(params=["both", "one"])
def engine(request: pytest.FixtureRequest) -> BatchingEngine:
    made: BatchingEngine = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="module")
def alone(both: BatchingEngine) -> Alone:
    """What each answer is when nothing else is being written and nothing was switched."""
    known: dict[str, str] = {}

    def look_up(requests: Sequence[ChatRequest]) -> list[str]:
        for request in requests:
            if (key := request.model_dump_json()) not in known:
                known[key] = answer(both, request).text
        return [known[request.model_dump_json()] for request in requests]

    return look_up


def test_chat_then_an_enhancement_by_the_base_model_then_chat(engine: BatchingEngine, alone: Alone) -> None:
    requests = [CHAT, enhancement("enhance_base"), CHAT]
    assert [request.model for request in requests] == ["qwen_instruct", "qwen_base", "qwen_instruct"]
    assert [answer(engine, request).text for request in requests] == alone(requests)


@pytest.mark.parametrize("order", list(permutations([CHAT, SEEDED, enhancement("enhance_instruct")])))
def test_every_order_of_switching(engine: BatchingEngine, alone: Alone, order: Sequence[ChatRequest]) -> None:
    assert [answer(engine, request).text for request in order] == alone(order)


def test_both_models_under_load_at_once(engine: BatchingEngine, alone: Alone) -> None:
    requests = [CHAT, BASE, SEEDED, enhancement("enhance_base"), enhancement("enhance_instruct"), CHAT, BASE, CHAT] * 2
    assert texts(together(engine, requests)) == alone(requests)


def test_one_model_in_memory_is_one(one: BatchingEngine, both: BatchingEngine) -> None:
    assert set(both._models.batches) == {"qwen_instruct", "qwen_base"}
    for request in (BASE, CHAT):
        answer(one, request)
        assert list(one._models.batches) == [request.model]


def test_a_model_that_is_asked_for_all_the_time_does_not_keep_the_other_waiting_for_ever(one: BatchingEngine) -> None:
    answer(one, CHAT)
    first, *rest = together(one, [ask("hello", max_tokens=200), BASE, *[ask("hello", max_tokens=100)] * 8])
    assert all(isinstance(end, Finished) for end in (first, *rest))


def test_what_is_kept_in_memory_is_what_the_operator_says_and_both_on_a_cpu(tiny_models: Path) -> None:
    folders = [tiny_models / "qwen_instruct", tiny_models / "qwen_base"]
    cpu = torch.device("cpu")
    assert [choose_residency(wanted, folders, cpu) for wanted in ("auto", "both", "one")] == ["both", "both", "one"]
