"""Decoding parameters, named as vLLM names them: each has its effect on the tokens that are sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import ValidationError
from tests.handlers.chat.engine_fixtures import ask, complete, engine_of

HOT = {"temperature": 2.0, "top_p": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def engine(instruct: ChatModel) -> Iterator[TransformersEngine]:
    with engine_of(instruct) as engine:
        yield engine


def text(engine: TransformersEngine, **fields: Any) -> str:
    return complete(engine, ask(**fields)).text


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}])
def test_top_k_1_and_min_p_1_keep_only_the_most_likely_token(engine: TransformersEngine, narrow: dict[str, Any]) -> None:
    assert text(engine, **HOT, **narrow) == text(engine) != text(engine, **HOT)


@pytest.mark.parametrize("wide", [{"top_k": 0}, {"top_k": -1}, {"min_p": 0.0}])
def test_the_defaults_keep_all_tokens(engine: TransformersEngine, wide: dict[str, Any]) -> None:
    assert text(engine, **HOT, **wide) == text(engine, **HOT)


def test_logit_bias_forces_and_forbids_tokens(engine: TransformersEngine, instruct: ChatModel) -> None:
    (wanted,) = instruct.tokenizer("a", add_special_tokens=False).input_ids
    assert text(engine, max_tokens=5, logit_bias={str(wanted): 100}) == "aaaaa"
    first = instruct.tokenizer(text(engine, max_tokens=1), add_special_tokens=False).input_ids[0]
    assert text(engine, max_tokens=1, logit_bias={str(first): -100}) != text(engine, max_tokens=1)


def test_a_stop_token_ends_the_completion_and_is_not_part_of_it(engine: TransformersEngine, instruct: ChatModel) -> None:
    (wanted,) = instruct.tokenizer("a", add_special_tokens=False).input_ids
    end = complete(engine, ask(logit_bias={str(wanted): 100}, stop_token_ids=[wanted]))
    assert (end.text, end.finish_reason) == ("", "stop")


def test_nothing_ends_a_completion_before_min_tokens(engine: TransformersEngine, instruct: ChatModel) -> None:
    (wanted,) = instruct.tokenizer("a", add_special_tokens=False).input_ids
    end = complete(engine, ask(logit_bias={str(wanted): 100}, stop=["a"], min_tokens=4))
    assert (end.text, end.completion_tokens) == ("aaaa", 5)
    eos = [str(token) for token in instruct.eos_token_ids]
    assert complete(engine, ask(logit_bias=dict.fromkeys(eos, 100), min_tokens=7)).completion_tokens == 7


def test_min_tokens_does_not_break_a_grammar(engine: TransformersEngine) -> None:
    end = complete(engine, ask(max_tokens=60, min_tokens=50, guided_choice=["yes", "no"]))
    assert end.text in ("yes", "no")


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": {"enum": [1, 2]}},
        {"guided_json": '{"enum": [1, 2]}'},
        {"structured_outputs": {"json": {"enum": [1, 2]}}},
        {"guided_choice": ["1", "2"]},
        {"structured_outputs": {"choice": ["1", "2"]}},
        {"guided_regex": "[12]"},
        {"structured_outputs": {"regex": "^[12]$"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1, 2]}}}},
    ],
)
def test_vllms_names_constrain_the_completion_as_response_format_does(engine: TransformersEngine, fields: dict[str, Any]) -> None:
    assert json.loads(text(engine, **fields, **HOT)) in (1, 2)


@pytest.mark.parametrize(("field", "value"), [("stop_token_ids", [9_999_999]), ("logit_bias", {"9999999": 1})])
def test_a_token_that_the_model_does_not_have_is_rejected(engine: TransformersEngine, field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{field}` must be token ids below"):
        engine.check(ask(**{field: value}))
