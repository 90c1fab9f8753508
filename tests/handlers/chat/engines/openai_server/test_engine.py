"""The OpenAI server engine against a real HTTP server on loopback: streaming, cancellation, concurrency, limits."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from handlers.chat.engines.openai_server.connect import connect
from handlers.chat.engines.openai_server.engine import OpenAIServerEngine
from handlers.chat.engines.openai_server.messages_model import MessagesModel, ServerModel
from shared.errors import Cancelled, ContextLengthExceeded, DeviceError, JobTimeout, ModelUnavailable
from shared.jobs.execution.cancel import CancelToken
from tests.doubles.openai_server import MODEL, OpenAIServer, ScriptedRequest, reply
from tests.handlers.chat.engines.openai_server.conftest import complete, settings_for, start_streaming
from tests.handlers.conftest import chat


def test_a_completion_is_streamed_with_its_usage(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    read = threading.Event()

    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        request.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        request.chunk("The ")
        read.wait(60)
        request.chunk("bay.")
        request.chunk(finish_reason="length")
        request.usage(prompt=12, completion=2, cached=8)
        request.done()

    server.scripts.append(script)
    with engine.submit(chat("hello"), CancelToken(60)) as stream:
        deltas = iter(stream)
        assert next(deltas).text == "The "
        read.set()
        assert [delta.text for delta in deltas] == ["bay."]
        completion = stream.completion
    assert (completion.text, completion.finish_reason) == ("The bay.", "length")
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (12, 2, 8)
    assert 0 < completion.time_to_first_token <= completion.seconds


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_that_are_split_between_packets_are_reassembled(engine: OpenAIServerEngine, server: OpenAIServer, size: int) -> None:
    texts = ["🦢🏽 中", "文 \u2028 e\u0301", "\x85\r\n", "नमस्ते"]
    server.scripts.append(reply(*texts, size=size))
    received, completion = complete(engine)
    assert "".join(received) == completion.text == "".join(texts)


def test_every_sampling_parameter_is_sent(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    sampling: dict[str, Any] = {
        "temperature": 0.3, "top_p": 0.8, "seed": 5, "stop": ["a", "b"], "max_tokens": 7, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.2, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }  # fmt: skip
    complete(engine, chat("hello", "Hi.", "<|im_end|>", **sampling))
    assert server.requests == [
        sampling
        | {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "<|im_end|>"},
            ],
            "top_k": -1, "min_p": 0.0, "n": 1, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
        }
    ]  # fmt: skip


def test_top_p_0_and_temperature_0_are_sent_as_greedy_decoding(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    complete(engine, chat("hello", temperature=1.5, top_p=0))
    server.scripts.append(reply("{}"))
    complete(engine, chat("hello", temperature=0, top_p=0.5, response_format={"type": "json_object"}))
    assert [(body["temperature"], body["top_p"]) for body in server.requests] == [(0.0, 1.0), (0.0, 1.0)]
    assert [body.get("response_format") for body in server.requests] == [None, {"type": "json_object"}]
    assert [body.get("stop") for body in server.requests] == [None, None]


def test_extensions_are_not_sent_to_a_server_without_them(server: OpenAIServer) -> None:
    engine = connect(settings_for(server, chat_engine_extensions=False))
    complete(engine)
    assert not {"top_k", "min_p", "repetition_penalty"} & server.requests[0].keys()
    with pytest.raises(ModelUnavailable, match="repetition_penalty"):
        engine.check(chat("hello", repetition_penalty=1.1))
    engine.close()


class Stall:
    """A script that starts streaming and then sends nothing until the client disconnects.

    Attributes:
        started: Set once the stream has started.
        disconnected: Set once the client has disconnected.
    """

    def __init__(self) -> None:
        self.started, self.disconnected = threading.Event(), threading.Event()

    def __call__(self, request: ScriptedRequest) -> None:
        start_streaming(request)
        self.started.set()
        if request.wait_for_disconnect():
            self.disconnected.set()


def test_cancelling_a_job_closes_the_connection(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    stall, cancel = Stall(), CancelToken(60)
    server.scripts.append(stall)

    def cancel_while_the_stream_is_silent() -> None:
        stall.started.wait(60)
        time.sleep(0.2)
        cancel.cancel()

    threading.Thread(target=cancel_while_the_stream_is_silent).start()
    with pytest.raises(Cancelled):
        complete(engine, cancel=cancel)
    assert stall.disconnected.wait(60)


def test_a_silent_server_runs_into_the_jobs_deadline(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    stall, now = Stall(), 0.0
    server.scripts.append(stall)
    with engine.submit(chat("hello"), CancelToken(30.0, lambda: now)) as stream:
        deltas = iter(stream)
        assert next(deltas).text == "some "
        now = 30.0
        with pytest.raises(JobTimeout) as caught:
            list(deltas)
    assert caught.value.retryable
    assert stall.disconnected.wait(60)


def test_an_abandoned_stream_frees_its_slot(server: OpenAIServer) -> None:
    engine, stall = connect(settings_for(server, chat_engine_concurrency=1)), Stall()
    server.scripts.append(stall)
    with engine.submit(chat("hello"), CancelToken(60)) as stream:
        assert next(iter(stream)).text == "some "
    assert stall.disconnected.wait(60)
    assert complete(engine)[1].text == "Hello."
    engine.close()


def test_concurrency_is_limited_to_the_number_of_slots(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    barrier = threading.Barrier(4)

    def reply_together(request: ScriptedRequest) -> None:
        barrier.wait(60)
        reply(request.body["messages"][0]["content"])(request)

    server.scripts.extend([reply_together] * 12)
    with ThreadPoolExecutor(12) as threads:
        texts = list(threads.map(lambda number: complete(engine, chat(f"number {number}"))[1].text, range(12)))
    assert texts == [f"number {number}" for number in range(12)]
    assert server.max_in_flight == 4


def test_an_unreachable_server_replaces_the_worker() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    engine = OpenAIServerEngine({"qwen_instruct": MessagesModel(url, ServerModel(MODEL, 1000), 1)}, 1)
    with pytest.raises(DeviceError) as caught:
        complete(engine)
    assert caught.value.replaces_worker
    engine.close()


def test_a_conversation_counted_by_the_server_is_rejected_with_both_lengths(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    server.token_count = 901
    with pytest.raises(ContextLengthExceeded, match=r"901 tokens.*max_tokens.*\(100\).*1000 tokens.*to 99\."):
        engine.check(chat("hello", max_tokens=100))
    engine.check(chat("hello", max_tokens=99))
    assert server.requests == [], "rejected before a completion is requested"


def test_the_tokenize_route_is_tried_once(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    engine.check(chat("hello"))
    server.token_count = 5000
    engine.check(chat("hello"))
    with pytest.raises(ContextLengthExceeded, match=r"max_tokens.*\(1001\) exceed the context window of qwen_instruct \(1000 tokens\)"):
        engine.check(chat("hello", max_tokens=1001))


def test_the_base_model_is_unavailable(engine: OpenAIServerEngine) -> None:
    with pytest.raises(ModelUnavailable, match="Available: qwen_instruct"):
        engine.check(chat("hello", model="qwen_base"))
