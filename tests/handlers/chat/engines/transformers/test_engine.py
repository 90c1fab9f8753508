"""Many conversations at once: nobody's answer depends on who else is being answered, and nobody's mishap is another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engine import Finished
from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, ContextLengthExceeded, GenerationError, JobError, OutOfMemory, ValidationError
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    EIGHT,
    ENDLESS,
    WORDS,
    answer,
    ask,
    engine_of,
    generated,
    outcome,
    own_copy,
    texts,
    together,
)

ALL_KINDS = [
    ask("hello"),
    ask("hello", temperature=0.7, top_p=0.9, seed=7),
    ask("a heron", temperature=1.0, top_p=1.0, seed=8, max_tokens=60),
    ask("why?", temperature=2.0, top_p=0.5, seed=9, repetition_penalty=1.3),
    ask("hello", max_tokens=40, presence_penalty=1.5),
    ask("more", max_tokens=5, frequency_penalty=2.0, temperature=1.0, seed=1),
    ask("hello " * 100, max_tokens=30, temperature=1.0, top_p=0.99, seed=2),
    ask("hello", response_format={"type": "json_object"}, temperature=1.0, seed=3),
]
"""Requests that have nothing in common."""


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[BatchingEngine]:
    with engine_of(instruct) as made:
        yield made


# Whose answer it is


def test_greedy_answers_are_the_librarys_alone_and_with_seven_others(engine: BatchingEngine, instruct: ChatModel) -> None:
    expected = [generated(instruct, request).rstrip("�") for request in EIGHT]
    assert [answer(engine, request).text.rstrip("�") for request in EIGHT] == expected
    assert [text.rstrip("�") for text in texts(together(engine, EIGHT))] == expected


def test_no_answer_is_changed_by_its_neighbours_whatever_they_ask_for(engine: BatchingEngine) -> None:
    alone = [answer(engine, request).text for request in ALL_KINDS]
    assert texts(together(engine, ALL_KINDS)) == alone
    assert texts(together(engine, [*reversed(ALL_KINDS), *EIGHT]))[: len(alone)] == alone[::-1]


def test_a_seed_means_the_same_next_to_the_same_seed(engine: BatchingEngine) -> None:
    request = ask("hello", temperature=1.0, top_p=1.0, seed=7)
    assert len(set(texts(together(engine, [request] * 4)))) == 1
    assert answer(engine, request).text != answer(engine, request.model_copy(update={"seed": 8})).text


# Whose mishap it is


def test_one_that_is_too_long_one_that_is_stopped_and_one_with_a_broken_schema_disturb_nobody(engine: BatchingEngine) -> None:
    alone = [answer(engine, request).text for request in EIGHT]
    stopped = CancelToken(60)
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    ends: dict[str, JobError | Finished] = {}

    def mishap(name: str, request: ChatRequest, cancel: CancelToken | None = None) -> threading.Thread:
        thread = threading.Thread(target=lambda: ends.update({name: outcome(engine, request, cancel)}))
        thread.start()
        return thread

    threads = [
        mishap("long", ask("word " * 3000)),
        mishap("stopped", ENDLESS, stopped),
        mishap("schema", ask(response_format=broken)),
        mishap("greedy", ask(temperature=0)),
    ]
    others = together(engine, EIGHT)
    stopped.cancel()
    for thread in threads:
        thread.join()
    assert texts(others) == alone
    assert [type(ends[name]) for name in ("long", "stopped", "schema", "greedy")] == [
        ContextLengthExceeded,
        Cancelled,
        ValidationError,
        Finished,
    ]


def test_output_that_is_not_finite_fails_its_own_answer_and_leaves_nothing_behind(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    with engine_of(model) as engine:
        alone = [answer(engine, request).text for request in EIGHT]
        ids = model.tokenizer(alone[2], add_special_tokens=False).input_ids
        poison = next(token for token in ids[4:] if not any(token in tokens_of(model, text) for text in (*alone[:2], *alone[3:])))
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        ends = together(engine, [*EIGHT, *EIGHT])
    for index, end in enumerate(ends):
        if index % len(EIGHT) == 2:
            assert isinstance(end, GenerationError)
        else:
            assert isinstance(end, Finished)
            assert end.text == alone[index % len(EIGHT)]


def tokens_of(model: ChatModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def test_where_memory_runs_out_the_longest_answer_ends_and_the_others_go_on(tiny_models: Path) -> None:
    model = own_copy(tiny_models)

    def runs_out(_module: object, _args: object, fields: dict[str, Any]) -> None:
        if len(fields["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no memory")

    with engine_of(model) as engine:
        alone = [answer(engine, request).text for request in EIGHT]
        model.model.register_forward_pre_hook(runs_out, with_kwargs=True)
        ends = together(engine, EIGHT)
    assert any(isinstance(end, OutOfMemory) for end in ends)
    assert [end.text for end in ends if isinstance(end, Finished)] == [
        text for text, end in zip(alone, ends, strict=True) if isinstance(end, Finished)
    ]
    assert sum(isinstance(end, Finished) for end in ends) >= 5


def test_who_takes_the_place_of_output_that_was_not_finite_finds_nothing_of_it(tiny_models: Path) -> None:
    """The second fails at its first step; the third then joins in its place, shorter, while the first is longer than both."""
    model = own_copy(tiny_models)
    first, third = ask("hello " * 400, max_tokens=600), ask("why? " * 230, max_tokens=20)
    with engine_of(model) as engine:
        used = {token for request in (first, third) for token in tokens_of(model, answer(engine, request).text)}
        seconds = [ask(words + " bay" * 360, max_tokens=9) for words in WORDS]
        starts = {token: request for request in seconds for token in tokens_of(model, answer(engine, request).text)[:1]}
        poison, second = next((token, request) for token, request in starts.items() if token not in used)
        alone = answer(engine, third).text
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        with engine.start(first, CancelToken(60)) as longest:
            next(iter(longest))
            with engine.start(second, CancelToken(60)) as fails, engine.start(third, CancelToken(60)) as joins:
                with pytest.raises(GenerationError):
                    list(fails)
                list(joins)
                assert joins.finished.text == alone
