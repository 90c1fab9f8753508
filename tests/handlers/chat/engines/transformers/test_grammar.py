"""Answers in the form that was asked for: whatever the model would rather write, what comes is JSON of that schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import ValidationError
from tests.handlers.chat.engine_fixtures import answer, ask, engine_of, favouring, own_copy, texts, together

BIRD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "bird": {"enum": ["heron", "egret"]},
        "legs": {"type": "integer", "minimum": 1, "maximum": 2},
        "blue": {"type": "boolean"},
    },
    "required": ["bird", "legs", "blue"],
    "additionalProperties": False,
}


def form(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "bird", "schema": schema}}


@pytest.fixture(scope="module")
def engine(instruct: ChatModel, tiny_models: Path) -> Iterator[BatchingEngine]:
    with engine_of(instruct, own_copy(tiny_models, "qwen_base")) as made:
        yield made


@pytest.mark.parametrize("model", ["qwen_instruct", "qwen_base"])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 2.0, "top_p": 1.0, "seed": 7}, {"temperature": 1.0, "seed": 8, "repetition_penalty": 1.5}]
)
def test_an_answer_fits_its_schema_and_ends_where_it_is_complete(engine: BatchingEngine, model: str, sampling: dict[str, Any]) -> None:
    end = answer(engine, ask(model=model, max_tokens=300, response_format=form(BIRD), **sampling))
    assert end.finish_reason == "stop"
    Draft202012Validator(BIRD).validate(json.loads(end.text))


def test_any_json_object_begins_and_goes_on_as_one(engine: BatchingEngine) -> None:
    end = answer(engine, ask(max_tokens=200, temperature=1.0, seed=3, response_format={"type": "json_object"}))
    assert end.text.lstrip().startswith("{")
    if end.finish_reason == "stop":
        assert isinstance(json.loads(end.text), dict)


def test_several_forms_and_plain_text_at_once_do_not_mix(engine: BatchingEngine) -> None:
    schemas: list[dict[str, Any]] = [{"enum": [f"a{number}", f"b{number}"]} for number in range(4)]
    requests = [ask(response_format=form(schema)) for schema in schemas] + [ask()]
    *formed, plain = texts(together(engine, requests))
    for schema, text in zip(schemas, formed, strict=True):
        assert json.loads(text) in schema["enum"]
    assert plain == answer(engine, ask()).text


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}, {"not": {}}])
def test_a_schema_that_cannot_be_followed_is_refused_before_any_work(engine: BatchingEngine, schema: object) -> None:
    with pytest.raises(ValidationError, match=r"response_format\.json_schema\.schema.*cannot be followed"):
        engine.check(ask(response_format=form(schema)))


def test_an_answer_that_is_complete_at_its_last_token_is_complete(engine: BatchingEngine) -> None:
    request = ask(max_tokens=300, response_format=form(BIRD))
    length = answer(engine, request).completion_tokens
    ends = [answer(engine, ask(max_tokens=most, response_format=form(BIRD))).finish_reason for most in (length, length - 1)]
    assert ends == ["stop", "length"]


def test_a_model_that_would_write_nothing_but_white_space_writes_json(tiny_models: Path) -> None:
    with engine_of(favouring(tiny_models, "\n", "qwen_instruct")) as engine:
        end = answer(engine, ask(max_tokens=400, response_format=form(BIRD)))
    assert "\n\n" in end.text
    Draft202012Validator(BIRD).validate(json.loads(end.text))
