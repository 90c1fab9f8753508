"""Places in an engine: who waits, who is let in, how long it may become, and who frees one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.chat.engine import Finished
from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import Cancelled, ContextLengthExceeded, JobTimeout
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    EIGHT,
    ENDLESS,
    WORDS,
    answer,
    ask,
    cost,
    engine_of,
    own_copy,
    passes_of,
    together,
)


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(instruct) as made:
        yield made


@pytest.mark.parametrize("how", ["stopped", "left"])
def test_one_that_is_stopped_or_that_nobody_reads_frees_its_place_at_once(tiny_models: Path, how: str) -> None:
    model = own_copy(tiny_models)
    with engine_of(model, budget=cost(1, 2048)) as small:
        cancel = CancelToken(60)
        with small.start(ENDLESS, cancel) as stream:
            pieces = iter(stream)
            next(pieces)
            if how == "stopped":
                cancel.cancel()
                with pytest.raises(Cancelled):
                    list(pieces)
        passes = passes_of(model)
        assert answer(small, ask(max_tokens=10)).completion_tokens == 10
        assert len(passes) <= 1 + 10 + 1, "the one before had at most the step in which it was stopped"


def test_one_whose_time_is_over_ends_waiting_or_not(engine: BatchingEngine, instruct: ChatModel) -> None:
    with engine_of(instruct, budget=cost(1, 2048)) as small:
        request = ENDLESS
        with small.start(request, CancelToken(0.2)) as first, small.start(request, CancelToken(0.1)) as second:
            for stream in (second, first):
                with pytest.raises(JobTimeout):
                    list(stream)


def test_more_than_fit_wait_in_their_order_and_all_are_answered(engine: BatchingEngine, instruct: ChatModel) -> None:
    alone = [answer(engine, request).text for request in EIGHT]
    with engine_of(instruct, budget=cost(2, 256)) as small:
        streams = [small.start(request, CancelToken(60)) for request in EIGHT]
        for stream, text in zip(streams, alone, strict=True):
            list(stream)
            assert stream.finished.text == text
        waited = [stream.finished.time_to_first_token for stream in streams]
        assert waited == sorted(waited)


def test_memory_is_never_promised_twice(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    model.model.config.max_position_embeddings = 16_384
    with engine_of(model, budget=cost(4, 4096)) as small:
        assert small.concurrency == 4, "of usual length"
        passes = passes_of(model)
        ends = together(small, [ask(words, max_tokens=4096, stop="e") for words in WORDS])
        assert {end.finish_reason for end in ends if isinstance(end, Finished)} == {"stop"}
        assert max(passes) == 3, "these may become longer"


def test_a_long_prompt_does_not_hold_back_short_ones(engine: BatchingEngine) -> None:
    long, *short = together(engine, [ask("hello " * 600, max_tokens=40), *[ask(words, max_tokens=3) for words in WORDS[:3]]])
    assert isinstance(long, Finished)
    for end in short:
        assert isinstance(end, Finished)
        assert end.seconds < long.time_to_first_token


def test_first_tokens_of_all_come_before_the_end_of_any(engine: BatchingEngine) -> None:
    ends = together(engine, [ask(words, max_tokens=60) for words in WORDS])
    answers = [end for end in ends if isinstance(end, Finished)]
    assert max(end.time_to_first_token for end in answers) < min(end.seconds for end in answers)


def test_what_just_fits_is_written_and_one_token_more_is_refused(engine: BatchingEngine) -> None:
    window = engine.models["qwen_instruct"].context_length
    prompt = answer(engine, ask(max_tokens=1)).prompt_tokens
    fits = "x" * (window - prompt - 40 + len("hello"))
    length = answer(engine, ask(fits, max_tokens=1)).prompt_tokens
    end = answer(engine, ask(fits, max_tokens=window - length))
    assert end.prompt_tokens + (end.completion_tokens if end.finish_reason == "length" else window - length) == window
    with pytest.raises(
        ContextLengthExceeded, match=rf"has {length} tokens.*asks for {window - length + 1} more.*{window}.*at most {window - length} "
    ):
        engine.check(ask(fits, max_tokens=window - length + 1))


def test_a_context_is_no_longer_than_there_is_memory_for(engine: BatchingEngine, instruct: ChatModel) -> None:
    with engine_of(instruct, budget=cost(1, 512)) as small:
        assert small.models["qwen_instruct"].context_length == 511
        with pytest.raises(ContextLengthExceeded, match="511"):
            small.check(ask(max_tokens=511))


def test_a_place_is_free_when_its_answer_has_ended(engine: BatchingEngine) -> None:
    together(engine, EIGHT)
    engine._changed.acquire()
    engine._changed.release()
    assert engine._models.rows == []
