"""What the engine beside the process gets wrong becomes a row of our table, and the next one is answered."""

from __future__ import annotations

import pytest

from handlers.chat.engines.openai_server.client import OpenAIServerEngine
from shared.errors import GenerationError, JobError
from tests.doubles.openai_server import OpenAIServer, Script, ScriptedRequest, reply
from tests.handlers.chat.engines.openai_server.conftest import started, write
from tests.handlers.conftest import chat

CANARY = "canary-prompt-of-the-caller"


def failure(engine: OpenAIServerEngine, server: OpenAIServer, script: Script) -> JobError:
    server.scripts.append(script)
    with pytest.raises(JobError) as caught:
        write(engine, chat(CANARY))
    assert write(engine)[1].text == "Hello.", "the next one is answered"
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
    error = failure(engine, server, lambda asked: asked.refuse(status, body))
    assert (error.code, error.retryable, error.replaces_worker) == (code, retryable, False)


def test_a_rejected_parameter_is_named(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    error = failure(engine, server, lambda asked: asked.refuse(400, {"error": {"message": CANARY, "param": "stop"}}))
    assert "stop: must be what the engine beside this worker accepts" in error.message


def ends_early(asked: ScriptedRequest) -> None:
    started(asked).end()


def is_cut_off(asked: ScriptedRequest) -> None:
    started(asked).send(b'data: {"choices": [{"del')
    asked.hang_up()


def talks_nonsense(asked: ScriptedRequest) -> None:
    started(asked).send(b"data: {no json\n\n")
    asked.end()


def has_another_shape(asked: ScriptedRequest) -> None:
    started(asked).event({"choices": "none"})
    asked.end()


def says_done_too_early(asked: ScriptedRequest) -> None:
    started(asked).done()


def counts_nothing(asked: ScriptedRequest) -> None:
    started(asked).chunk(finish_reason="stop")
    asked.done()


def gives_up(asked: ScriptedRequest) -> None:
    started(asked).chunk(finish_reason="abort")
    asked.usage()
    asked.done()


def is_no_stream(asked: ScriptedRequest) -> None:
    asked.begin("application/json")
    asked.send(b'{"choices": []}')
    asked.end()


def hangs_up_at_once(asked: ScriptedRequest) -> None:
    asked.hang_up()


@pytest.mark.parametrize(
    "script",
    [
        ends_early,
        is_cut_off,
        talks_nonsense,
        has_another_shape,
        says_done_too_early,
        counts_nothing,
        gives_up,
        is_no_stream,
        hangs_up_at_once,
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
    def script(asked: ScriptedRequest) -> None:
        started(asked).event(event)
        asked.done()

    assert failure(engine, server, script).code == code


def test_a_completion_that_ignores_the_response_format_is_an_error(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    form = chat("hello", response_format={"type": "json_object"})
    server.scripts.extend([reply('{"a": ', "1}"), reply("Sure! {}"), reply("Sure! {}", reason="length")])
    assert write(engine, form)[1].text == '{"a": 1}'
    with pytest.raises(GenerationError, match="response_format") as caught:
        write(engine, form)
    assert not caught.value.retryable
    assert write(engine, form)[1].finish_reason == "length", "who was cut off is told so"
