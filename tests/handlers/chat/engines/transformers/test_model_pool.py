"""Two models: both in memory, or the one that is needed, and whoever asks gets the one that was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import pytest
import torch

from handlers.chat.engine import Finished
from handlers.chat.engines.transformers.chat_format import Source
from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.memory import choose_residency
from handlers.chat.engines.transformers.stream import RowStream
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, DeviceError, JobError, JobTimeout
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import answer, ask, engine_of, own_copy, texts, together

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


# While the other model is being loaded


class Gate:
    """A model's weights on a volume that gives them only when it is told to, from the second time on.

    Attributes:
        asked: Set when they are read again.
        opened: Lets them through.
        broken: Whether they are gone then.
    """

    def __init__(self, models: Path, name: str) -> None:
        self.asked, self.opened = threading.Event(), threading.Event()
        self.broken = False
        self._models, self._name = models, name
        self._first = True

    def load(self) -> ChatModel:
        if not self._first:
            self.asked.set()
            assert self.opened.wait(60)
        self._first = False
        return own_copy(self._models, "nowhere" if self.broken else self._name)


@pytest.fixture
def gate(tiny_models: Path) -> Iterator[Gate]:
    made = Gate(tiny_models, "qwen_base")
    yield made
    made.opened.set()


@pytest.fixture
def gated(instruct: ChatModel, gate: Gate) -> Iterator[BatchingEngine]:
    """An engine that has to load its base model through the gate."""
    sources = [Source("qwen_instruct", lambda: instruct), Source("qwen_base", gate.load, transcript=True)]
    engine = BatchingEngine(sources, resident="one")
    yield engine
    gate.opened.set()
    engine.close()


def ending(stream: RowStream) -> type[JobError] | None:
    """How a stream ends: by an error of which kind, or well."""
    try:
        list(stream)
    except JobError as error:
        return type(error)
    return None


def test_conversations_end_before_their_model_makes_room_and_who_waits_for_the_other_gets_it(
    gated: BatchingEngine, gate: Gate, alone: Alone
) -> None:
    running = [ask("hello", max_tokens=120), ask("a heron", max_tokens=200)]
    with gated.start(running[0], CancelToken(60)) as first, gated.start(running[1], CancelToken(60)) as second:
        next(iter(second))
        with gated.start(BASE, CancelToken(60)) as waits:
            assert [ending(first), ending(second)] == [None, None]
            assert gate.asked.wait(60)
            gate.opened.set()
            assert ending(waits) is None
            assert [stream.finished.text for stream in (first, second, waits)] == alone([*running, BASE])


def test_who_waits_while_a_model_is_loaded_can_be_stopped_and_has_a_deadline(gated: BatchingEngine, gate: Gate, alone: Alone) -> None:
    stopped, stays = CancelToken(60), gated.start(BASE, CancelToken(60))
    assert gate.asked.wait(60)
    others = [gated.start(request, token) for request, token in ((BASE, stopped), (SEEDED, CancelToken(0.1)), (CHAT, stopped))]
    stopped.cancel()
    assert [ending(stream) for stream in others] == [Cancelled, JobTimeout, Cancelled]
    assert not gate.opened.is_set(), "all of that while the model was still being loaded"
    gate.opened.set()
    assert ending(stays) is None
    assert [stays.finished.text] == alone([BASE])


def test_a_model_that_nobody_waits_for_any_more_keeps_nobody_from_the_other(gated: BatchingEngine, gate: Gate, alone: Alone) -> None:
    stopped = CancelToken(60)
    leaves = gated.start(BASE, stopped)
    assert gate.asked.wait(60)
    comes = gated.start(CHAT, CancelToken(60))
    stopped.cancel()
    assert ending(leaves) is Cancelled
    gate.opened.set()
    assert ending(comes) is None
    assert [comes.finished.text] == alone([CHAT])


def test_an_engine_that_is_closed_while_it_loads_ends_those_who_wait(gated: BatchingEngine, gate: Gate) -> None:
    waits = gated.start(BASE, CancelToken(60))
    assert gate.asked.wait(60)
    closing = threading.Thread(target=gated.close)
    closing.start()
    gate.opened.set()
    closing.join()
    assert ending(waits) is Cancelled


def test_weights_that_are_gone_when_a_model_is_needed_again_replace_the_worker(gated: BatchingEngine, gate: Gate) -> None:
    gate.broken = True
    gate.opened.set()
    with pytest.raises(DeviceError) as failed:
        answer(gated, BASE)
    assert failed.value.replaces_worker


def test_a_volume_that_gives_nothing_replaces_the_worker_instead_of_keeping_everybody_waiting(instruct: ChatModel, gate: Gate) -> None:
    sources = [Source("qwen_instruct", lambda: instruct), Source("qwen_base", gate.load, transcript=True)]
    engine = BatchingEngine(sources, resident="one", patience=0.2)
    with pytest.raises(DeviceError):
        answer(engine, BASE)
    with pytest.raises(DeviceError):
        engine.start(CHAT, CancelToken(60))
    engine.close()
