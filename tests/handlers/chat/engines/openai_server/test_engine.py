"""The engine beside the process: a real server on loopback that answers well, late or not at all."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from handlers.chat.engines.openai_server.client import OpenAIServerEngine, ServedModel, connect
from shared.errors import Cancelled, ContextLengthExceeded, DeviceError, JobTimeout, ModelUnavailable
from shared.jobs.execution.cancel import CancelToken
from tests.doubles.openai_server import MODEL, OpenAIServer, ScriptedRequest, reply
from tests.handlers.chat.engines.openai_server.conftest import configured, started, write
from tests.handlers.conftest import chat


def test_a_completion_is_streamed_with_its_usage(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    def script(asked: ScriptedRequest) -> None:
        asked.begin()
        asked.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        asked.chunk("The ")
        asked.chunk("bay.")
        asked.chunk(finish_reason="length")
        asked.usage(prompt=12, completion=2, cached=8)
        asked.done()

    server.scripts.append(script)
    texts, finished = write(engine)
    assert texts == ["The ", "bay."]
    assert (finished.text, finished.finish_reason) == ("The bay.", "length")
    assert (finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens) == (12, 2, 8)
    assert 0 < finished.time_to_first_token <= finished.seconds


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_that_are_split_between_packets_are_reassembled(engine: OpenAIServerEngine, server: OpenAIServer, size: int) -> None:
    texts = ["🦢🏽 中", "文 \u2028 e\u0301", "\x85\r\n", "नमस्ते"]
    server.scripts.append(reply(*texts, size=size))
    assert write(engine)[0] == texts


def test_every_sampling_parameter_is_sent(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked: dict[str, Any] = {
        "temperature": 0.3, "top_p": 0.8, "seed": 5, "stop": ["a", "b"], "max_tokens": 7, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.2, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }  # fmt: skip
    write(engine, chat("hello", "Hi.", "<|im_end|>", **asked))
    assert server.asked == [
        asked
        | {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "<|im_end|>"},
            ],
            "top_k": -1, "min_p": 0.0, "n": 1, "stream": True, "stream_options": {"include_usage": True},
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}},
        }
    ]  # fmt: skip


def test_top_p_0_and_temperature_0_are_sent_as_greedy_decoding(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    write(engine, chat("hello", temperature=1.5, top_p=0))
    server.scripts.append(reply("{}"))
    write(engine, chat("hello", temperature=0, top_p=0.5, response_format={"type": "json_object"}))
    assert [(body["temperature"], body["top_p"]) for body in server.asked] == [(0.0, 1.0), (0.0, 1.0)]
    assert [body.get("response_format") for body in server.asked] == [None, {"type": "json_object"}]
    assert [body.get("stop") for body in server.asked] == [None, None]


def test_extensions_are_not_sent_to_a_server_without_them(server: OpenAIServer) -> None:
    engine = connect(configured(server, chat_engine_extensions=False))
    write(engine)
    assert not {"top_k", "min_p", "repetition_penalty"} & server.asked[0].keys()
    with pytest.raises(ModelUnavailable, match="repetition_penalty"):
        engine.check(chat("hello", repetition_penalty=1.1))
    engine.close()


class Silent:
    """Says nothing more until it is left."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, asked: ScriptedRequest) -> None:
        started(asked)
        if asked.wait_for_leave():
            self.left.set()


def test_cancelling_a_job_closes_the_connection(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    silent, token = Silent(), CancelToken(30)
    server.scripts.append(silent)
    threading.Timer(0.3, token.cancel).start()
    with pytest.raises(Cancelled):
        write(engine, cancel=token)
    assert silent.left.wait(5)


def test_a_silent_server_runs_into_the_jobs_deadline(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    silent = Silent()
    server.scripts.append(silent)
    with pytest.raises(JobTimeout) as caught:
        write(engine, cancel=CancelToken(0.3))
    assert caught.value.retryable
    assert silent.left.wait(5)


def test_an_abandoned_stream_frees_its_slot(server: OpenAIServer) -> None:
    engine, silent = connect(configured(server, chat_engine_concurrency=1)), Silent()
    server.scripts.append(silent)
    with engine.start(chat("hello"), CancelToken(30)) as stream:
        assert next(iter(stream)).text == "some "
    assert silent.left.wait(5)
    assert write(engine)[1].text == "Hello."
    engine.close()


def test_concurrency_is_limited_to_the_number_of_slots(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    four = threading.Barrier(4)

    def together(asked: ScriptedRequest) -> None:
        four.wait(20)
        reply(asked.body["messages"][0]["content"])(asked)

    server.scripts.extend([together] * 12)
    with ThreadPoolExecutor(12) as threads:
        texts = list(threads.map(lambda number: write(engine, chat(f"number {number}"))[1].text, range(12)))
    assert texts == [f"number {number}" for number in range(12)]
    assert server.most == 4


def test_an_unreachable_server_replaces_the_worker() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    engine = OpenAIServerEngine(url, ServedModel(MODEL, 1000), 1)
    with pytest.raises(DeviceError) as caught:
        write(engine)
    assert caught.value.replaces_worker
    engine.close()


def test_a_conversation_counted_by_the_server_is_rejected_with_both_lengths(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    server.counts = 901
    with pytest.raises(ContextLengthExceeded, match=r"has 901 tokens and max_tokens asks for 100 more.* holds 1000.*at most 99 tokens"):
        engine.check(chat("hello", max_tokens=100))
    engine.check(chat("hello", max_tokens=99))
    assert server.asked == [], "before any work"


def test_the_tokenize_route_is_tried_once(engine: OpenAIServerEngine, server: OpenAIServer) -> None:
    engine.check(chat("hello"))
    server.counts = 5000
    engine.check(chat("hello"))
    with pytest.raises(ContextLengthExceeded, match="1001 tokens that max_tokens asks for are more than the 1000"):
        engine.check(chat("hello", max_tokens=1001))


def test_the_base_model_is_unavailable(engine: OpenAIServerEngine) -> None:
    with pytest.raises(ModelUnavailable, match="it has qwen_instruct"):
        engine.check(chat("hello", model="qwen_base"))
