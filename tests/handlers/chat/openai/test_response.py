"""Responses in OpenAI's form conform to the schema and parse with OpenAI's own types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from handlers.chat.choice_delta import ChoiceDelta
from handlers.chat.openai.presentation import OpenAIPresentation, answer_without_job, list_models
from handlers.chat.openai.request import OpenAIResponseOptions
from handlers.chat.openai.response import ChatForm, error, to_json
from shared.contract.assets import TextAsset
from shared.contract.callback import CompletedPayload
from shared.errors import ERRORS, ContextLengthExceeded, JobError, Problem, ValidationError
from shared.jobs.lifecycle import Completed
from tests.shared.contract import payloads

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[4] / "schemas/chat.openai.schema.json").read_text()))


def payload(*warnings: str, text: TextAsset | None = None) -> CompletedPayload:
    return payloads.completed(text or payloads.text(), metadata=payloads.CHAT | {"warnings": list(warnings)}, **payloads.TOP_LEVEL)


def form() -> ChatForm:
    return ChatForm("J", 5, "qwen_instruct")


def stream(**body: Any) -> list[str]:
    """Returns the outputs of a streamed job with two deltas."""
    options = OpenAIResponseOptions.of(
        {"openai_route": "/v1/chat/completions", "openai_input": {"model": "qwen_instruct", "stream": True} | body}
    )
    assert options is not None
    presentation = OpenAIPresentation("J", options)
    deltas = [presentation.delta([ChoiceDelta(0, text)]) for text in ("Par", "is.")]
    return [str(output) for output in (*deltas, *presentation.final(Completed(payload("note"))))]


def events(outputs: list[str]) -> list[str]:
    return [event.removeprefix("data: ") for event in "".join(outputs).split("\n\n") if event]


def test_a_completion_parses_with_openais_own_types() -> None:
    response = form().whole(payload()).model_dump(mode="json")
    SCHEMA.validate(response)
    parsed = ChatCompletion.model_validate(response, strict=True)
    assert (parsed.id, parsed.created, parsed.model) == ("chatcmpl-J", 5, "qwen_instruct")
    assert (parsed.choices[0].message.content, parsed.choices[0].finish_reason) == ("Paris.", "stop")
    assert "warnings" not in response


def test_warnings_are_included_if_there_are_any() -> None:
    assert form().whole(payload("note")).model_dump(mode="json")["warnings"] == ["note"]
    *_, last = form().last_chunks(payload("note"))
    assert last.model_dump(mode="json")["warnings"] == ["note"]


def test_chunks_parse_with_openais_own_types() -> None:
    *chunks, done = events(stream(stream_options={"include_usage": True}))
    assert done == "[DONE]"
    for chunk in chunks:
        SCHEMA.validate(json.loads(chunk))
    first, second, last, usage = (ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks)
    assert [chunk.choices[0].delta.to_dict() for chunk in (first, second, last)] == [
        {"role": "assistant", "content": "Par"},
        {"content": "is."},
        {},
    ]
    assert (usage.choices, usage.usage and usage.usage.total_tokens) == ([], 12)
    assert len(events(stream())) == 4


def test_events_are_ascii() -> None:
    options = OpenAIResponseOptions(lists_models=False, model="qwen_instruct", stream=True, include_usage=False)
    output = OpenAIPresentation("J", options).delta([ChoiceDelta(0, "🦢 \u2028 中")])
    assert isinstance(output, str)
    assert output.isascii()
    assert json.loads(output.removeprefix("data: "))["choices"][0]["delta"]["content"] == "🦢 \u2028 中"


def test_the_list_of_models_parses_with_openais_own_types() -> None:
    listed = list_models(["qwen_instruct", "qwen_base"], 5)
    SCHEMA.validate(listed)
    assert isinstance(listed, dict)
    models = listed["data"]
    assert isinstance(models, list)
    assert [Model.model_validate(model, strict=True).id for model in models] == ["qwen_instruct", "qwen_base"]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.code)
def test_every_job_error_has_an_openai_error_object(kind: type[JobError]) -> None:
    failure = ValidationError([Problem("temperature", "3", "less"), Problem("stop", "x", "y")]) if kind is ValidationError else kind("No.")
    response = json.loads(to_json(error(failure)))
    SCHEMA.validate(response)
    assert response["error"]["message"] == failure.message
    assert response["error"]["code"] == kind.code.lower()
    assert response["error"]["type"] == ("server_error" if failure.retryable else "invalid_request_error")
    assert response["error"]["param"] == ("temperature" if kind is ValidationError else None)


def test_the_context_length_error_has_openais_own_code() -> None:
    assert error(ContextLengthExceeded("No.")).error.code == "context_length_exceeded"


class TwoModels:
    model_names = ("qwen_instruct", "other/name")


@pytest.mark.parametrize("path", ["qwen_instruct", "other/name", "other%2Fname"])
def test_one_model_is_shown(path: str) -> None:
    name = path.replace("%2F", "/")
    shown = answer_without_job({"openai_route": f"/v1/models/{path}", "openai_input": {}}, TwoModels(), 1_700_000_000)
    assert shown == {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "worker"}


def test_a_model_that_is_not_installed_is_an_error_that_names_those_that_are() -> None:
    shown = answer_without_job({"openai_route": "/v1/models/gpt-5", "openai_input": {}}, TwoModels(), 1_700_000_000)
    assert isinstance(shown, dict)
    failure = json.loads(str(shown["error"]))["error"]
    assert failure["code"] == "model_unavailable"
    assert "other/name" in failure["message"]
