"""Admission: waiting, admission within the KV-cache budget, context windows, and freeing rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import Cancelled, ContextLengthExceeded, JobTimeout
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    EIGHT,
    ENDLESS,
    WORDS,
    ask,
    budget_for,
    complete,
    complete_concurrently,
    complete_together,
    engine_of,
    held,
    load_copy,
    record_batch_sizes,
    texts,
    timelines,
)


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        yield engine


@pytest.mark.parametrize("how", ["cancelled", "abandoned"])
def test_a_cancelled_or_abandoned_sequence_frees_its_row_at_the_next_step(tiny_models: Path, how: str) -> None:
    model = load_copy(tiny_models)
    with engine_of(model, budget=budget_for(1, 2048)) as small:
        cancel = CancelToken(60)
        with small.submit(ENDLESS, cancel) as stream:
            deltas = iter(stream)
            next(deltas)
            if how == "cancelled":
                cancel.cancel()
                with pytest.raises(Cancelled):
                    list(deltas)
        batch_sizes = record_batch_sizes(model)
        assert complete(small, ask(max_tokens=10)).completion_tokens == 10
        assert len(batch_sizes) <= 1 + 10 + 1, "the ended sequence took part in one more step at most"


def test_a_sequence_times_out_whether_waiting_or_running(tiny_models: Path) -> None:
    model, now = load_copy(tiny_models), 0.0
    lengths: list[int] = []
    model.model.register_forward_pre_hook(lambda _module, _args, fields: lengths.append(fields["input_ids"].shape[1]), with_kwargs=True)
    with engine_of(model, budget=budget_for(1, 2048)) as small:
        with held(model) as begun:
            running = small.submit(ENDLESS, CancelToken(60, lambda: now))
            assert begun.wait(60)
            waiting = small.submit(ask("why? " * 200, max_tokens=1200), CancelToken(60, lambda: now))
            now = 60.0
        for stream in (waiting, running):
            with pytest.raises(JobTimeout):
                list(stream)
    assert max(lengths) < 100, "the long prompt was never admitted"


def test_sequences_beyond_the_budget_are_admitted_in_order(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model, budget=budget_for(2, 256)) as small:
        first_tokens = [timeline.first_token for timeline in timelines(small, model, EIGHT)]
        assert all(earlier.may_precede(later) for earlier, later in pairwise(first_tokens))


def test_sequences_that_had_to_wait_have_the_text_that_they_have_alone(engine: TransformersEngine, instruct: ChatModel) -> None:
    alone = [complete(engine, request).text for request in EIGHT]
    with engine_of(instruct, budget=budget_for(2, 256)) as small:
        assert texts(complete_concurrently(small, EIGHT)) == alone


def test_the_kv_cache_budget_is_never_overcommitted(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    model.model.config.max_position_embeddings = 16_384
    with engine_of(model, budget=budget_for(4, 4096)) as small:
        assert small.max_concurrency == 4, "sequences of typical length"
        batch_sizes = record_batch_sizes(model)
        ends = complete_together(small, model, [ask(words, max_tokens=4096, stop="e") for words in WORDS])
        assert {end.finish_reason for end in ends if isinstance(end, Completion)} == {"stop"}
        assert max(batch_sizes) == 3, "these sequences may become longer"


def test_more_short_sequences_run_at_once_than_the_budget_has_room_for_sequences_of_typical_length(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model, budget=budget_for(2, 2048)) as small:
        assert small.max_concurrency == 2
        batch_sizes = record_batch_sizes(model)
        complete_together(small, model, [ask(words, max_tokens=60) for words in WORDS])
    assert max(batch_sizes) > 2


def test_a_long_prefill_does_not_delay_short_prompts(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model) as engine:
        requests = [ask("hello " * 600, max_tokens=40), *[ask(words, max_tokens=3) for words in WORDS[:3]]]
        long, *short = timelines(engine, model, requests)
    assert all(each.end.may_precede(long.first_token) for each in short)


def test_every_sequence_gets_its_first_token_before_any_is_complete(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model) as engine:
        ends = timelines(engine, model, [ask(words, max_tokens=60) for words in WORDS])
    assert all(one.first_token.may_precede(other.end) for one in ends for other in ends)


def test_the_context_window_can_be_filled_exactly(engine: TransformersEngine) -> None:
    window = engine.models["qwen_instruct"].context_length
    prompt = complete(engine, ask(max_tokens=1)).prompt_tokens
    fits = "x" * (window - prompt - 40 + len("hello"))
    length = complete(engine, ask(fits, max_tokens=1)).prompt_tokens
    end = complete(engine, ask(fits, max_tokens=window - length))
    assert end.prompt_tokens + (end.completion_tokens if end.finish_reason == "length" else window - length) == window
    with pytest.raises(
        ContextLengthExceeded, match=rf"{length} tokens.*max_tokens.*{window - length + 1}.*{window} tokens.*to {window - length}\."
    ):
        engine.check(ask(fits, max_tokens=window - length + 1))


def test_the_context_window_is_limited_by_the_kv_cache_budget(engine: TransformersEngine, instruct: ChatModel) -> None:
    with engine_of(instruct, budget=budget_for(1, 512)) as small:
        assert small.models["qwen_instruct"].context_length == 511
        with pytest.raises(ContextLengthExceeded, match="511"):
            small.check(ask(max_tokens=511))


def test_no_sequence_remains_after_all_completions(engine: TransformersEngine) -> None:
    complete_concurrently(engine, EIGHT)
    engine._changed.acquire()
    engine._changed.release()
    assert engine._pool.sequences == []
