"""Continuous batching: completions do not depend on the rest of the batch, and failures stay with their own sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.request import ChatRequest
from shared.errors import Cancelled, ContextLengthExceeded, GenerationError, JobError, OutOfMemory, ValidationError
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    EIGHT,
    ENDLESS,
    WORDS,
    ask,
    complete,
    complete_concurrently,
    complete_or_error,
    complete_together,
    engine_of,
    generate_with_transformers,
    load_copy,
    texts,
)

DIVERSE = [
    ask("hello"),
    ask("hello", temperature=0.7, top_p=0.9, seed=7),
    ask("a heron", temperature=1.0, top_p=1.0, seed=8, max_tokens=60),
    ask("why?", temperature=2.0, top_p=0.5, seed=9, repetition_penalty=1.3),
    ask("hello", max_tokens=40, presence_penalty=1.5),
    ask("more", max_tokens=5, frequency_penalty=2.0, temperature=1.0, seed=1),
    ask("hello " * 100, max_tokens=30, temperature=1.0, top_p=0.99, seed=2),
    ask("hello", response_format={"type": "json_object"}, temperature=1.0, seed=3),
]
"""Requests with different sampling parameters, lengths and formats."""


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        yield engine


# Independence of completions


def test_greedy_completions_match_transformers_alone_and_in_a_batch_of_eight(engine: TransformersEngine, instruct: ChatModel) -> None:
    expected = [generate_with_transformers(instruct, request).rstrip("�") for request in EIGHT]
    assert [complete(engine, request).text.rstrip("�") for request in EIGHT] == expected
    assert [text.rstrip("�") for text in texts(complete_concurrently(engine, EIGHT))] == expected


def test_completions_do_not_depend_on_the_rest_of_the_batch(engine: TransformersEngine) -> None:
    alone = [complete(engine, request).text for request in DIVERSE]
    assert texts(complete_concurrently(engine, DIVERSE)) == alone
    assert texts(complete_concurrently(engine, [*reversed(DIVERSE), *EIGHT]))[: len(alone)] == alone[::-1]


def test_equal_seeds_in_one_batch_give_equal_completions(engine: TransformersEngine) -> None:
    request = ask("hello", temperature=1.0, top_p=1.0, seed=7)
    assert len(set(texts(complete_concurrently(engine, [request] * 4)))) == 1
    assert complete(engine, request).text != complete(engine, request.model_copy(update={"seed": 8})).text


# Isolation of failures


def test_rejected_and_cancelled_requests_do_not_affect_the_batch(engine: TransformersEngine) -> None:
    alone = [complete(engine, request).text for request in EIGHT]
    cancel = CancelToken(60)
    invalid = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    ends: dict[str, JobError | Completion] = {}

    def run(name: str, request: ChatRequest, cancel: CancelToken | None = None) -> threading.Thread:
        thread = threading.Thread(target=lambda: ends.update({name: complete_or_error(engine, request, cancel)}))
        thread.start()
        return thread

    threads = [
        run("long", ask("word " * 3000)),
        run("cancelled", ENDLESS, cancel),
        run("schema", ask(response_format=invalid)),
        run("greedy", ask(temperature=0)),
    ]
    others = complete_concurrently(engine, EIGHT)
    cancel.cancel()
    for thread in threads:
        thread.join()
    assert texts(others) == alone
    assert [type(ends[name]) for name in ("long", "cancelled", "schema", "greedy")] == [
        ContextLengthExceeded,
        Cancelled,
        ValidationError,
        Completion,
    ]


def test_non_finite_logits_fail_only_their_own_sequence(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model) as engine:
        alone = [complete(engine, request).text for request in EIGHT]
        ids = model.tokenizer(alone[2], add_special_tokens=False).input_ids
        poison = next(token for token in ids[4:] if not any(token in tokens_of(model, text) for text in (*alone[:2], *alone[3:])))
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        ends = complete_concurrently(engine, [*EIGHT, *EIGHT])
    for index, end in enumerate(ends):
        if index % len(EIGHT) == 2:
            assert isinstance(end, GenerationError)
        else:
            assert isinstance(end, Completion)
            assert end.text == alone[index % len(EIGHT)]


def tokens_of(model: ChatModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def test_out_of_memory_fails_the_longest_sequence_and_the_others_continue(tiny_models: Path) -> None:
    model = load_copy(tiny_models)

    def run_out_of_memory(_module: object, _args: object, fields: dict[str, Any]) -> None:
        if len(fields["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no memory")

    with engine_of(model) as engine:
        alone = [complete(engine, request).text for request in EIGHT]
        model.model.register_forward_pre_hook(run_out_of_memory, with_kwargs=True)
        ends = complete_together(engine, model, EIGHT)
    assert any(isinstance(end, OutOfMemory) for end in ends)
    assert [end.text for end in ends if isinstance(end, Completion)] == [
        text for text, end in zip(alone, ends, strict=True) if isinstance(end, Completion)
    ]
    assert sum(isinstance(end, Completion) for end in ends) >= 5


def test_a_row_is_zeroed_after_non_finite_output_before_it_is_reused(tiny_models: Path) -> None:
    """The second sequence fails at its first decode step. The third, which is shorter, takes its row; the first is longer than both."""
    model = load_copy(tiny_models)
    first, third = ask("hello " * 400, max_tokens=600), ask("why? " * 230, max_tokens=20)
    with engine_of(model) as engine:
        used = {token for request in (first, third) for token in tokens_of(model, complete(engine, request).text)}
        candidates = [ask(words + " bay" * 360, max_tokens=9) for words in WORDS]
        by_first_token = {token: request for request in candidates for token in tokens_of(model, complete(engine, request).text)[:1]}
        poison, second = next((token, request) for token, request in by_first_token.items() if token not in used)
        alone = complete(engine, third).text
        embedding: Any = model.model.get_input_embeddings()
        embedding.weight[poison] = torch.nan
        with engine.submit(first, CancelToken(60)) as longest:
            next(iter(longest))
            with engine.submit(second, CancelToken(60)) as failing, engine.submit(third, CancelToken(60)) as reusing:
                with pytest.raises(GenerationError):
                    list(failing)
                list(reusing)
                assert reusing.completion.text == alone
