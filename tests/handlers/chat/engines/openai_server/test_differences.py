"""Where servers differ from the contract, the engine makes up for it: stop strings, token counts, refusals of schemas, silent failures."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from handlers.chat.engines.openai_server.connect import connect
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.engines.openai_server.health import HealthMonitor, Probing
from shared.errors import DeviceError, ValidationError
from shared.jobs.execution.cancel import CancelToken
from tests.doubles.openai_server import OpenAIServer, ScriptedRequest, reply
from tests.handlers.chat.engines.openai_server.conftest import complete, settings_for
from tests.handlers.conftest import chat

SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}


def test_stop_strings_beyond_the_four_that_servers_allow_are_looked_for_here(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    server.scripts.append(reply("one ", "two ST", "OP three", "four"))
    texts, end = complete(engine, chat("hello", stop=["a1", "a2", "a3", "a4", "a5", "STOP", "a7", "a8"]))
    assert server.requests[0]["stop"] == ["a1", "a2", "a3", "a4"]
    assert ("".join(texts), end.text, end.finish_reason) == ("one two ", "one two ", "stop"), "what may become a stop string is held back"


def test_a_server_that_counts_continuously_is_left_at_the_stop_string(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    disconnected = threading.Event()

    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        for count, text in enumerate(["one ", "two ", "STOP"], start=1):
            usage = {"prompt_tokens": 9, "completion_tokens": 2 * count}
            request.event({"choices": [{"index": 0, "delta": {"content": text}}], "usage": usage})
        if request.wait_for_disconnect():
            disconnected.set()

    server.scripts.append(script)
    end = complete(engine, chat("hello", stop=["a1", "a2", "a3", "a4", "STOP"]))[1]
    assert (end.text, end.completion_tokens, end.prompt_tokens) == ("one two ", 6, 9)
    assert disconnected.wait(60)


@pytest.mark.parametrize(
    ("stop_reason", "tokens"), [({"stop_reason": None}, 2), ({"stop_reason": 7}, 2), ({"stop_reason": "STOP"}, 3), ({}, 3)]
)
def test_the_token_that_ends_a_completion_is_not_counted_where_the_server_tells(
    engine: OpenAIServerEngine, server: OpenAIServer, stop_reason: dict[str, Any], tokens: int
) -> None:
    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("one ")
        request.event({"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop", **stop_reason}]})
        request.usage(completion=3)
        request.done()

    server.scripts.append(script)
    assert complete(engine)[1].completion_tokens == tokens


def test_progress_counts_tokens_where_the_server_does(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    read = threading.Event()

    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        for count in (3, 8):
            usage = {"prompt_tokens": 9, "completion_tokens": count}
            request.event({"choices": [{"index": 0, "delta": {"content": "words "}, "finish_reason": None}], "usage": usage})
            read.wait(60)
        request.chunk(finish_reason="length")
        request.usage(completion=8)
        request.done()

    server.scripts.append(script)
    with engine.submit(chat("hello"), CancelToken(60)) as stream:
        deltas = iter(stream)
        assert next(deltas).completion_tokens == 3
        read.set()
        assert [delta.completion_tokens for delta in deltas] == [8]


def test_text_that_arrives_at_once_is_one_delta(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    """The consumer would otherwise wake for every token, and take processor time from the server."""

    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        for _ in range(200):
            request.chunk("word ")
        request.chunk(finish_reason="length")
        request.usage(completion=200)
        request.done()

    server.scripts.append(script)
    with engine.submit(chat("hello"), CancelToken(60)) as stream:
        stream._reading.result(60)  # everything has arrived
        (delta,) = stream
    assert delta.text == stream.completion.text == "word " * 200


@pytest.mark.parametrize("in_stream", [False, True])
def test_a_refused_schema_is_named_with_the_servers_reason(engine: OpenAIServerEngine, server: OpenAIServer, in_stream: bool) -> None:
    error = {"message": 'Grammar error: unknown\nkeyword in schema; prompt was "canary-words"', "param": None, "code": 500}

    def script(request: ScriptedRequest) -> None:
        if not in_stream:
            return request.refuse(400, {"error": error})
        request.start_stream()
        request.event({"error": error})
        return request.done()

    server.scripts.append(script)
    with pytest.raises(ValidationError) as caught:
        complete(engine, chat("canary-words", response_format=SCHEMA))
    status = 500 if in_stream else 400
    assert caught.value.message.endswith(
        f"`response_format.json_schema.schema` was rejected by the inference server (HTTP {status}): "
        'Grammar error: unknown keyword in schema; prompt was "…"'
    )
    assert not caught.value.retryable


def test_an_unbounded_schema_is_never_sent(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    patterns = [{"pattern": f".*a.{{{number}}}a.*"} for number in range(20)]
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string", "allOf": patterns}}}
    with pytest.raises(ValidationError, match="more than 8 patterns"):
        engine.check(chat("hello", response_format=form))
    assert server.requests == []


def test_a_server_that_fails_between_jobs_is_noticed_and_running_completions_are_answered(server: OpenAIServer) -> None:
    engine = connect(settings_for(server), Probing(interval=0.05, timeout=60.0, failures=2))
    failed = threading.Event()
    engine.watch(failed.set)

    def stall(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("some ")
        request.wait_for_disconnect()

    server.scripts.append(stall)
    with engine.submit(chat("hello"), CancelToken(60)) as stream:
        deltas = iter(stream)
        assert next(deltas).text == "some "
        server.health.append(503)
        server.health.popleft()
        with pytest.raises(DeviceError) as caught:
            list(deltas)
    assert caught.value.retryable
    assert failed.wait(60)
    with pytest.raises(DeviceError):
        complete(engine)
    late = threading.Event()
    engine.watch(late.set)
    assert late.is_set(), "also if it has failed before anybody asked"
    engine.close()


class SlowAtFirst(OpenAIServer):
    """A server that does not answer its first probe in time.

    Attributes:
        probed: Is released when a probe arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probed = threading.Semaphore(0)
        self._slow = True

    def next_health(self) -> int:
        slow, self._slow = self._slow, False
        self.probed.release()
        if slow:
            self.closing.wait(60)
        return super().next_health()


def test_a_single_slow_answer_to_a_probe_is_no_failure() -> None:
    failed = threading.Event()
    with SlowAtFirst() as server:
        monitor = HealthMonitor(server.url, Probing(interval=0.05, timeout=2.0, failures=3))
        monitor.start(failed.set)
        assert all(server.probed.acquire(timeout=60) for _ in range(5))
        assert not failed.is_set()
        monitor.close()
