"""Containment: whatever goes wrong with one sequence ends that sequence only, and one shortage of memory is survived."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engine import Completion
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import GenerationError, InternalError, JobError
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import EIGHT, ask, complete, complete_concurrently, engine_of, load_copy, texts

IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "sampling": {"repetition_penalty": "x"},
    "stop handling": {"stop": (5,)},
    "penalties": {"presence_penalty": "x"},
}
"""Values that no validated request has. Each makes another part of the engine raise."""

UNICODE_TITLE = {
    "type": "json_schema",
    "json_schema": {
        "schema": {
            "type": "object",
            "properties": {"title": {"type": "string", "pattern": "^(\\p{L}{1,30}[ \\-]?){1,20}$"}},
            "required": ["title"],
            "additionalProperties": False,
        }
    },
}


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        yield engine


@pytest.mark.parametrize("fault", sorted(IMPOSSIBLE))
def test_an_unexpected_error_of_one_sequence_ends_only_that_sequence(engine: TransformersEngine, fault: str) -> None:
    alone = [complete(engine, request).text for request in EIGHT]
    broken = ask("hello", max_tokens=40).model_copy(update=IMPOSSIBLE[fault])
    with engine.submit(broken, CancelToken(60)) as failing:
        assert texts(complete_concurrently(engine, EIGHT)) == alone
        with pytest.raises(InternalError, match="Send the job again"):
            list(failing)
    assert complete(engine, EIGHT[0]).text == alone[0]


def test_a_grammar_that_fails_in_mid_answer_is_an_error_and_never_a_completion(engine: TransformersEngine) -> None:
    ends: list[Completion | JobError] = complete_concurrently(
        engine, [ask(max_tokens=100, temperature=0.7, seed=seed, response_format=UNICODE_TITLE) for seed in range(4)]
    )
    for end in ends:
        if isinstance(end, Completion):
            assert end.finish_reason == "length" or json.loads(end.text)["title"]
        else:
            assert isinstance(end, GenerationError)


def test_one_shortage_of_memory_frees_and_tries_again(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    short_in = {"prefill": 1, "decode": 1}

    def run_out_of_memory(_module: object, _args: object, fields: dict[str, Any]) -> None:
        kind = "decode" if fields["input_ids"].shape[1] == 1 else "prefill"
        short_in[kind] -= 1
        if short_in[kind] == 0:
            raise torch.OutOfMemoryError("no memory")

    with engine_of(model) as engine:
        alone = [complete(engine, request).text for request in EIGHT]
        short_in |= {"prefill": 1, "decode": 3}
        model.model.register_forward_pre_hook(run_out_of_memory, with_kwargs=True)
        assert texts(complete_concurrently(engine, EIGHT)) == alone
    assert max(short_in.values()) <= 0
