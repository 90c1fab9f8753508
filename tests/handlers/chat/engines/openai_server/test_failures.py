"""Failures of the inference server map to job errors, and the next request succeeds."""

from __future__ import annotations

import pytest

from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.recipe import ChatRecipe, ChatSettings
from shared.errors import GenerationError, JobError
from tests.doubles.openai_server import OpenAIServer, Script, ScriptedRequest, reply
from tests.handlers.chat.engines.openai_server.conftest import complete, start_streaming
from tests.handlers.conftest import chat, generate, text

CANARY = "canary-prompt-of-the-caller"


def failure(engine: OpenAIServerEngine, server: OpenAIServer, script: Script) -> JobError:
    server.scripts.append(script)
    with pytest.raises(JobError) as caught:
        complete(engine, chat(CANARY))
    assert complete(engine)[1].text == "Hello.", "the next request succeeds"
    assert CANARY not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (400, {"error": {"message": CANARY, "param": "stop", "code": 400}}, "VALIDATION_ERROR", False),
        (422, {"detail": [{"input": CANARY}]}, "VALIDATION_ERROR", False),
        (400, CANARY, "VALIDATION_ERROR", False),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, "CONTEXT_LENGTH_EXCEEDED", False),
        (400, {"object": "error", "message": "This model's maximum context length is 9 tokens."}, "CONTEXT_LENGTH_EXCEEDED", False),
        (404, {"error": {"message": f"The model `{CANARY}` does not exist."}}, "MODEL_UNAVAILABLE", False),
        (401, {"error": {"message": "no key"}}, "MODEL_UNAVAILABLE", False),
        (429, {}, "INTERNAL_ERROR", True),
        (408, {}, "INTERNAL_ERROR", True),
        (500, {"error": {"message": CANARY}}, "INTERNAL_ERROR", True),
        (503, CANARY, "INTERNAL_ERROR", True),
        (302, "", "INTERNAL_ERROR", True),
    ],
)
def test_an_error_status_maps_to_a_job_error(
    engine: OpenAIServerEngine, server: OpenAIServer, status: int, body: object, code: str, retryable: bool
) -> None:
    error = failure(engine, server, lambda request: request.refuse(status, body))
    assert (error.code, error.retryable, error.replaces_worker) == (code, retryable, False)


def test_a_rejected_parameter_is_named(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    error = failure(engine, server, lambda request: request.refuse(400, {"error": {"message": CANARY, "param": "stop"}}))
    assert "`stop` was rejected by the inference server (HTTP 400)" in error.message


def ends_without_finish_reason(request: ScriptedRequest) -> None:
    start_streaming(request).end()


def disconnects_within_an_event(request: ScriptedRequest) -> None:
    start_streaming(request).send(b'data: {"choices": [{"del')
    request.hang_up()


def sends_invalid_json(request: ScriptedRequest) -> None:
    start_streaming(request).send(b"data: {no json\n\n")
    request.end()


def sends_an_invalid_chunk(request: ScriptedRequest) -> None:
    start_streaming(request).event({"choices": "none"})
    request.end()


def sends_done_without_finish_reason(request: ScriptedRequest) -> None:
    start_streaming(request).done()


def sends_no_usage(request: ScriptedRequest) -> None:
    start_streaming(request).chunk(finish_reason="stop")
    request.done()


def aborts(request: ScriptedRequest) -> None:
    start_streaming(request).chunk(finish_reason="abort")
    request.usage()
    request.done()


def sends_no_stream(request: ScriptedRequest) -> None:
    request.start_stream("application/json")
    request.send(b'{"choices": []}')
    request.end()


def disconnects_without_a_response(request: ScriptedRequest) -> None:
    request.hang_up()


@pytest.mark.parametrize(
    "script",
    [
        ends_without_finish_reason,
        disconnects_within_an_event,
        sends_invalid_json,
        sends_an_invalid_chunk,
        sends_done_without_finish_reason,
        sends_no_usage,
        aborts,
        sends_no_stream,
        disconnects_without_a_response,
    ],
    ids=lambda script: script.__name__,
)
def test_a_broken_stream_is_a_retryable_generation_error(engine: OpenAIServerEngine, server: OpenAIServer, script: Script) -> None:
    error = failure(engine, server, script)
    assert isinstance(error, GenerationError)
    assert error.retryable


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"message": CANARY, "type": "BadRequestError", "code": 400}}, "VALIDATION_ERROR"),
        ({"object": "error", "message": CANARY, "code": 400}, "VALIDATION_ERROR"),
        ({"error": {"message": CANARY, "code": 500}}, "INTERNAL_ERROR"),
        ({"error": CANARY}, "INTERNAL_ERROR"),
    ],
)
def test_an_error_event_in_a_stream_maps_to_a_job_error(engine: OpenAIServerEngine, server: OpenAIServer, event: object, code: str) -> None:
    def script(request: ScriptedRequest) -> None:
        start_streaming(request).event(event)
        request.done()

    assert failure(engine, server, script).code == code


def test_a_completion_that_ignores_the_response_format_is_an_error(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    request = chat("hello", response_format={"type": "json_object"})
    server.scripts.extend([reply('{"a": ', "1}"), reply("Sure! {}"), reply("Sure! {}", reason="length")])
    assert complete(engine, request)[1].text == '{"a": 1}'
    recipe = ChatRecipe(engine, ChatSettings())
    with pytest.raises(GenerationError, match="response_format"):
        generate(recipe, request)
    assert text(generate(recipe, request)).metadata["finish_reason"] == "length", "a truncated completion is not validated"
