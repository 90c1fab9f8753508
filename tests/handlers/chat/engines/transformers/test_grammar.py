"""Constrained decoding: completions are JSON and conform to the requested schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import ModelUnavailable, ValidationError
from tests.fuzzing.conversations.models import chat_model
from tests.fuzzing.conversations.templates import TEMPLATES
from tests.handlers.chat.engine_fixtures import ask, biased_towards, complete, complete_concurrently, engine_of, load_copy, texts

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


def json_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "bird", "schema": schema}}


@pytest.fixture(scope="module")
def engine(instruct: ChatModel, tiny_models: Path) -> Iterator[TransformersEngine]:
    with engine_of(instruct, load_copy(tiny_models, "qwen_base")) as engine:
        yield engine


@pytest.mark.parametrize("model", ["qwen_instruct", "qwen_base"])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 2.0, "top_p": 1.0, "seed": 7}, {"temperature": 1.0, "seed": 8, "repetition_penalty": 1.5}]
)
def test_a_completion_conforms_to_its_schema_and_ends_when_complete(
    engine: TransformersEngine, model: str, sampling: dict[str, Any]
) -> None:
    end = complete(engine, ask(model=model, max_tokens=300, response_format=json_schema(BIRD), **sampling))
    assert end.finish_reason == "stop"
    Draft202012Validator(BIRD).validate(json.loads(end.text))


def test_json_object_format_generates_a_json_object(engine: TransformersEngine) -> None:
    end = complete(engine, ask(max_tokens=200, temperature=1.0, seed=3, response_format={"type": "json_object"}))
    assert end.text.lstrip().startswith("{")
    if end.finish_reason == "stop":
        assert isinstance(json.loads(end.text), dict)


def test_grammars_of_concurrent_requests_are_independent(engine: TransformersEngine) -> None:
    schemas: list[dict[str, Any]] = [{"enum": [f"a{number}", f"b{number}"]} for number in range(4)]
    requests = [ask(response_format=json_schema(schema)) for schema in schemas] + [ask()]
    *constrained, plain = texts(complete_concurrently(engine, requests))
    for schema, text in zip(schemas, constrained, strict=True):
        assert json.loads(text) in schema["enum"]
    assert plain == complete(engine, ask()).text


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}, {"not": {}}])
def test_an_unsupported_schema_is_rejected_before_any_work(engine: TransformersEngine, schema: object) -> None:
    with pytest.raises(ValidationError, match=r"response_format\.json_schema\.schema.*unsupported schema"):
        engine.check(ask(response_format=json_schema(schema)))


def test_a_grammar_that_completes_at_max_tokens_finishes_with_stop(engine: TransformersEngine) -> None:
    request = ask(max_tokens=300, response_format=json_schema(BIRD))
    length = complete(engine, request).completion_tokens
    ends = [complete(engine, ask(max_tokens=most, response_format=json_schema(BIRD))).finish_reason for most in (length, length - 1)]
    assert ends == ["stop", "length"]


def test_whitespace_between_json_values_is_limited(tiny_models: Path) -> None:
    with engine_of(biased_towards(tiny_models, "\n", "qwen_instruct")) as engine:
        end = complete(engine, ask(max_tokens=400, response_format=json_schema(BIRD)))
    assert "\n\n" in end.text
    Draft202012Validator(BIRD).validate(json.loads(end.text))


def test_a_tokenizer_that_cannot_be_constrained_makes_only_constraints_unavailable() -> None:
    with engine_of(chat_model("word pieces", TEMPLATES["ChatML"])) as engine:
        for fields in ({"response_format": {"type": "json_object"}}, {"guided_choice": ["a"]}):
            (name,) = fields
            with pytest.raises(ModelUnavailable, match=f"tokenizer cannot follow a schema, choice or pattern. Omit `{name}`"):
                engine.check(ask(**fields))
        assert complete(engine, ask(max_tokens=3)).completion_tokens <= 3
