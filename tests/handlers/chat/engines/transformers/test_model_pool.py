"""The model pool: two models resident together, or swapped in on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import pytest
import torch

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.memory import choose_residency
from handlers.chat.engines.transformers.stream import SequenceStream
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, DeviceError, JobError, JobTimeout
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import ask, complete, complete_concurrently, engine_of, load_copy, texts

Alone = Callable[[Sequence[ChatRequest]], list[str]]

CHAT = ask("hello")
BASE = ask("hello", model="qwen_base")
SEEDED = ask("a heron", model="qwen_base", temperature=1.0, top_p=1.0, seed=7)


def enhancement(kind: str) -> ChatRequest:
    return ChatRequest.parse({"type": kind, "prompt": "a heron", "max_tokens": 16, "temperature": 0}, job_id="j")


@pytest.fixture(scope="module")
def base(tiny_models: Path) -> ChatModel:
    return load_copy(tiny_models, "qwen_base")


@pytest.fixture(scope="module")
def both(instruct: ChatModel, base: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct, base) as engine:
        yield engine


@pytest.fixture(scope="module")
def one(instruct: ChatModel, base: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct, base, resident="one") as engine:
        yield engine


@pytest.fixture(params=["both", "one"])
def engine(request: pytest.FixtureRequest) -> TransformersEngine:
    made: TransformersEngine = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="module")
def alone(both: TransformersEngine) -> Alone:
    """Completes requests one at a time with both models resident, as the expected result of other runs."""
    known: dict[str, str] = {}

    def complete_alone(requests: Sequence[ChatRequest]) -> list[str]:
        for request in requests:
            if (key := request.model_dump_json()) not in known:
                known[key] = complete(both, request).text
        return [known[request.model_dump_json()] for request in requests]

    return complete_alone


def test_requests_alternate_between_the_models(engine: TransformersEngine, alone: Alone) -> None:
    requests = [CHAT, enhancement("enhance_base"), CHAT]
    assert [request.model for request in requests] == ["qwen_instruct", "qwen_base", "qwen_instruct"]
    assert [complete(engine, request).text for request in requests] == alone(requests)


@pytest.mark.parametrize("order", list(permutations([CHAT, SEEDED, enhancement("enhance_instruct")])))
def test_completions_do_not_depend_on_the_order_of_model_swaps(
    engine: TransformersEngine, alone: Alone, order: Sequence[ChatRequest]
) -> None:
    assert [complete(engine, request).text for request in order] == alone(order)


def test_concurrent_requests_to_both_models(engine: TransformersEngine, alone: Alone) -> None:
    requests = [CHAT, BASE, SEEDED, enhancement("enhance_base"), enhancement("enhance_instruct"), CHAT, BASE, CHAT] * 2
    assert texts(complete_concurrently(engine, requests)) == alone(requests)


def test_with_resident_one_a_single_model_is_in_memory(one: TransformersEngine, both: TransformersEngine) -> None:
    assert set(both._pool.batches) == {"qwen_instruct", "qwen_base"}
    for request in (BASE, CHAT):
        complete(one, request)
        assert list(one._pool.batches) == [request.model]


def test_a_busy_model_does_not_starve_the_other(one: TransformersEngine) -> None:
    complete(one, CHAT)
    first, *rest = complete_concurrently(one, [ask("hello", max_tokens=200), BASE, *[ask("hello", max_tokens=100)] * 8])
    assert all(isinstance(end, Completion) for end in (first, *rest))


def test_residency_follows_the_setting_and_auto_keeps_both_on_a_cpu(tiny_models: Path) -> None:
    folders = [tiny_models / "qwen_instruct", tiny_models / "qwen_base"]
    cpu = torch.device("cpu")
    assert [choose_residency(setting, folders, cpu) for setting in ("auto", "both", "one")] == ["both", "both", "one"]


# During a swap


class Gate:
    """A model whose loads block until the test opens the gate, except for the first one.

    Attributes:
        requested: Set when the model is loaded again.
        opened: Lets the load proceed.
        broken: Whether that load fails.
    """

    def __init__(self, models: Path, name: str) -> None:
        self.requested, self.opened = threading.Event(), threading.Event()
        self.broken = False
        self._models, self._name = models, name
        self._first = True

    def load(self) -> ChatModel:
        if not self._first:
            self.requested.set()
            assert self.opened.wait(60)
        self._first = False
        return load_copy(self._models, "nowhere" if self.broken else self._name)


@pytest.fixture
def gate(tiny_models: Path) -> Iterator[Gate]:
    gate = Gate(tiny_models, "qwen_base")
    yield gate
    gate.opened.set()


@pytest.fixture
def gated(instruct: ChatModel, gate: Gate) -> Iterator[TransformersEngine]:
    """An engine that loads its base model through the gate."""
    specs = [ModelSpec("qwen_instruct", lambda: instruct), ModelSpec("qwen_base", gate.load, transcript=True)]
    engine = TransformersEngine(specs, resident="one")
    yield engine
    gate.opened.set()
    engine.close()


def error_type(stream: SequenceStream) -> type[JobError] | None:
    """Consumes a stream, and returns the class of the error that ended it."""
    try:
        list(stream)
    except JobError as error:
        return type(error)
    return None


def test_running_sequences_finish_before_their_model_is_swapped_out(gated: TransformersEngine, gate: Gate, alone: Alone) -> None:
    running = [ask("hello", max_tokens=120), ask("a heron", max_tokens=200)]
    with gated.submit(running[0], CancelToken(60)) as first, gated.submit(running[1], CancelToken(60)) as second:
        next(iter(second))
        with gated.submit(BASE, CancelToken(60)) as waiting:
            assert [error_type(first), error_type(second)] == [None, None]
            assert gate.requested.wait(60)
            gate.opened.set()
            assert error_type(waiting) is None
            assert [stream.completion.text for stream in (first, second, waiting)] == alone([*running, BASE])


def test_sequences_waiting_for_a_swap_can_be_cancelled_and_time_out(gated: TransformersEngine, gate: Gate, alone: Alone) -> None:
    cancel, kept = CancelToken(60), gated.submit(BASE, CancelToken(60))
    assert gate.requested.wait(60)
    others = [gated.submit(request, token) for request, token in ((BASE, cancel), (SEEDED, CancelToken(0.1)), (CHAT, cancel))]
    cancel.cancel()
    assert [error_type(stream) for stream in others] == [Cancelled, JobTimeout, Cancelled]
    assert not gate.opened.is_set(), "while the model was still being loaded"
    gate.opened.set()
    assert error_type(kept) is None
    assert [kept.completion.text] == alone([BASE])


def test_a_swap_whose_requests_were_cancelled_does_not_block_the_other_model(gated: TransformersEngine, gate: Gate, alone: Alone) -> None:
    cancel = CancelToken(60)
    cancelled = gated.submit(BASE, cancel)
    assert gate.requested.wait(60)
    other = gated.submit(CHAT, CancelToken(60))
    cancel.cancel()
    assert error_type(cancelled) is Cancelled
    gate.opened.set()
    assert error_type(other) is None
    assert [other.completion.text] == alone([CHAT])


def test_closing_the_engine_during_a_swap_cancels_waiting_sequences(gated: TransformersEngine, gate: Gate) -> None:
    waiting = gated.submit(BASE, CancelToken(60))
    assert gate.requested.wait(60)
    closing = threading.Thread(target=gated.close)
    closing.start()
    gate.opened.set()
    closing.join()
    assert error_type(waiting) is Cancelled


def test_weights_that_disappear_before_a_swap_replace_the_worker(gated: TransformersEngine, gate: Gate) -> None:
    gate.broken = True
    gate.opened.set()
    with pytest.raises(DeviceError) as failed:
        complete(gated, BASE)
    assert failed.value.replaces_worker


def test_a_hanging_volume_replaces_the_worker_after_the_swap_timeout(instruct: ChatModel, gate: Gate) -> None:
    specs = [ModelSpec("qwen_instruct", lambda: instruct), ModelSpec("qwen_base", gate.load, transcript=True)]
    engine = TransformersEngine(specs, resident="one", swap_timeout=0.2)
    with pytest.raises(DeviceError):
        complete(engine, BASE)
    with pytest.raises(DeviceError):
        engine.submit(CHAT, CancelToken(60))
    engine.close()
