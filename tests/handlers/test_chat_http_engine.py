"""The engine beside the process: a real server on loopback that answers well, badly, late or not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from handlers.chat.engine import Finished, ModelFacts
from handlers.chat.http_engine import HttpEngine, Served, connect
from shared.contract.chat import ChatRequest
from shared.errors import Cancelled, ContextLengthExceeded, DeviceError, GenerationError, JobError, JobTimeout, ModelUnavailable
from shared.jobs.cancel import CancelToken
from shared.settings import Settings, SettingsError
from tests.doubles.openai_server import MODEL, Asked, OpenAIServer, Script, say
from tests.doubles.worker import ROOT, clean_environment
from tests.handlers.conftest import chat

CANARY = "canary-prompt-of-the-caller"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def engine(server: OpenAIServer) -> Iterator[HttpEngine]:
    engine = connect(configured(server))
    yield engine
    engine.close()


def configured(server: OpenAIServer, **changes: Any) -> Settings:
    settings: dict[str, Any] = {"chat_engine_url": server.url, "chat_engine_concurrency": 4, "chat_engine_start": 5.0}
    return Settings(**settings | changes)


def write(engine: HttpEngine, request: ChatRequest | None = None, cancel: CancelToken | None = None) -> tuple[list[str], Finished]:
    asked = request or chat("hello")
    engine.check(asked)
    with engine.start(asked, cancel or CancelToken(30)) as stream:
        texts = [piece.text for piece in stream]
        return texts, stream.finished


def failure(engine: HttpEngine, server: OpenAIServer, script: Script) -> JobError:
    server.scripts.append(script)
    with pytest.raises(JobError) as caught:
        write(engine, chat(CANARY))
    assert write(engine)[1].text == "Hello.", "the next one is answered"
    assert CANARY not in caught.value.message
    return caught.value


def test_an_answer_arrives_piece_by_piece_with_all_that_is_known_of_it(engine: HttpEngine, server: OpenAIServer) -> None:
    def script(asked: Asked) -> None:
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
def test_characters_are_whole_wherever_the_network_cuts(engine: HttpEngine, server: OpenAIServer, size: int) -> None:
    texts = ["🦢🏽 中", "文 \u2028 e\u0301", "\x85\r\n", "नमस्ते"]
    server.scripts.append(say(*texts, size=size))
    assert write(engine)[0] == texts


def test_every_field_that_chooses_tokens_is_sent(engine: HttpEngine, server: OpenAIServer) -> None:
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


def test_what_keeps_only_the_likeliest_token_is_sent_as_greedy(engine: HttpEngine, server: OpenAIServer) -> None:
    write(engine, chat("hello", temperature=1.5, top_p=0))
    server.scripts.append(say("{}"))
    write(engine, chat("hello", temperature=0, top_p=0.5, response_format={"type": "json_object"}))
    assert [(body["temperature"], body["top_p"]) for body in server.asked] == [(0.0, 1.0), (0.0, 1.0)]
    assert [body.get("response_format") for body in server.asked] == [None, {"type": "json_object"}]
    assert [body.get("stop") for body in server.asked] == [None, None]


def test_a_server_without_extensions_is_sent_none(server: OpenAIServer) -> None:
    engine = connect(configured(server, chat_engine_extensions=False))
    write(engine)
    assert not {"top_k", "min_p", "repetition_penalty"} & server.asked[0].keys()
    with pytest.raises(ModelUnavailable, match="repetition_penalty"):
        engine.check(chat("hello", repetition_penalty=1.1))
    engine.close()


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
def test_a_refusal_is_a_row_of_our_table(
    engine: HttpEngine, server: OpenAIServer, status: int, body: object, code: str, retryable: bool
) -> None:
    error = failure(engine, server, lambda asked: asked.refuse(status, body))
    assert (error.code, error.retryable, error.replaces_worker) == (code, retryable, False)


def test_a_refused_field_is_named(engine: HttpEngine, server: OpenAIServer) -> None:
    error = failure(engine, server, lambda asked: asked.refuse(400, {"error": {"message": CANARY, "param": "stop"}}))
    assert "stop: must be what the engine beside this worker accepts" in error.message


def started(asked: Asked) -> Asked:
    asked.begin()
    asked.chunk("some ")
    return asked


def ends_early(asked: Asked) -> None:
    started(asked).end()


def is_cut_off(asked: Asked) -> None:
    started(asked).send(b'data: {"choices": [{"del')
    asked.hang_up()


def talks_nonsense(asked: Asked) -> None:
    started(asked).send(b"data: {no json\n\n")
    asked.end()


def has_another_shape(asked: Asked) -> None:
    started(asked).event({"choices": "none"})
    asked.end()


def says_done_too_early(asked: Asked) -> None:
    started(asked).done()


def counts_nothing(asked: Asked) -> None:
    started(asked).chunk(finish_reason="stop")
    asked.done()


def gives_up(asked: Asked) -> None:
    started(asked).chunk(finish_reason="abort")
    asked.usage()
    asked.done()


def is_no_stream(asked: Asked) -> None:
    asked.begin("application/json")
    asked.send(b'{"choices": []}')
    asked.end()


def hangs_up_at_once(asked: Asked) -> None:
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
def test_a_broken_stream_is_no_answer_and_may_be_tried_again(engine: HttpEngine, server: OpenAIServer, script: Script) -> None:
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
def test_an_error_within_a_stream_is_one(engine: HttpEngine, server: OpenAIServer, event: object, code: str) -> None:
    def script(asked: Asked) -> None:
        started(asked).event(event)
        asked.done()

    assert failure(engine, server, script).code == code


def test_a_server_that_does_not_keep_to_the_form_has_given_no_answer(engine: HttpEngine, server: OpenAIServer) -> None:
    form = chat("hello", response_format={"type": "json_object"})
    server.scripts.extend([say('{"a": ', "1}"), say("Sure! {}"), say("Sure! {}", reason="length")])
    assert write(engine, form)[1].text == '{"a": 1}'
    with pytest.raises(GenerationError, match="response_format") as caught:
        write(engine, form)
    assert not caught.value.retryable
    assert write(engine, form)[1].finish_reason == "length", "who was cut off is told so"


class Silent:
    """Says nothing more until it is left."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, asked: Asked) -> None:
        started(asked)
        if asked.wait_for_leave():
            self.left.set()


def test_a_stopped_job_closes_the_connection(engine: HttpEngine, server: OpenAIServer) -> None:
    silent, token = Silent(), CancelToken(30)
    server.scripts.append(silent)
    threading.Timer(0.3, token.cancel).start()
    with pytest.raises(Cancelled):
        write(engine, cancel=token)
    assert silent.left.wait(5)


def test_a_server_that_says_nothing_runs_into_the_jobs_deadline(engine: HttpEngine, server: OpenAIServer) -> None:
    silent = Silent()
    server.scripts.append(silent)
    with pytest.raises(JobTimeout) as caught:
        write(engine, cancel=CancelToken(0.3))
    assert caught.value.retryable
    assert silent.left.wait(5)


def test_a_reader_who_goes_frees_his_place(server: OpenAIServer) -> None:
    engine, silent = connect(configured(server, chat_engine_concurrency=1)), Silent()
    server.scripts.append(silent)
    with engine.start(chat("hello"), CancelToken(30)) as stream:
        assert next(iter(stream)).text == "some "
    assert silent.left.wait(5)
    assert write(engine)[1].text == "Hello."
    engine.close()


def test_many_are_answered_at_once_and_no_more_than_there_are_places(engine: HttpEngine, server: OpenAIServer) -> None:
    four = threading.Barrier(4)

    def together(asked: Asked) -> None:
        four.wait(20)
        say(asked.body["messages"][0]["content"])(asked)

    server.scripts.extend([together] * 12)
    with ThreadPoolExecutor(12) as threads:
        texts = list(threads.map(lambda number: write(engine, chat(f"number {number}"))[1].text, range(12)))
    assert texts == [f"number {number}" for number in range(12)]
    assert server.most == 4


def test_a_server_that_is_gone_replaces_the_worker() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    engine = HttpEngine(url, Served(MODEL, 1000), 1)
    with pytest.raises(DeviceError) as caught:
        write(engine)
    assert caught.value.replaces_worker
    engine.close()


def test_a_server_that_counts_tokens_refuses_with_both_lengths(engine: HttpEngine, server: OpenAIServer) -> None:
    server.counts = 901
    with pytest.raises(ContextLengthExceeded, match=r"has 901 tokens and max_tokens asks for 100 more.* holds 1000.*at most 99 tokens"):
        engine.check(chat("hello", max_tokens=100))
    engine.check(chat("hello", max_tokens=99))
    assert server.asked == [], "before any work"


def test_a_server_that_does_not_count_is_asked_once(engine: HttpEngine, server: OpenAIServer) -> None:
    engine.check(chat("hello"))
    server.counts = 5000
    engine.check(chat("hello"))
    with pytest.raises(ContextLengthExceeded, match="1001 tokens that max_tokens asks for are more than the 1000"):
        engine.check(chat("hello", max_tokens=1001))


def test_the_base_model_is_not_there(engine: HttpEngine) -> None:
    with pytest.raises(ModelUnavailable, match="it has qwen_instruct"):
        engine.check(chat("hello", model="qwen_base"))


def test_it_waits_until_the_server_is_ready(server: OpenAIServer) -> None:
    server.health.extendleft([503, 503])
    engine = connect(configured(server))
    assert list(server.health) == [200]
    assert dict(engine.models) == {"qwen_instruct": ModelFacts(1000)}
    engine.close()


def test_a_server_that_is_not_ready_in_time_is_named_with_its_last_answer(server: OpenAIServer) -> None:
    server.health.append(503)
    server.health.popleft()
    with pytest.raises(SettingsError, match=r"not ready within 0.1 seconds .*health answers 503.*CHAT_ENGINE_START"):
        connect(configured(server, chat_engine_start=0.1))


@pytest.mark.parametrize("url", ["http://example.com:8000", "http://10.0.0.1", "http://0.0.0.0:8000"])
def test_conversations_go_to_no_other_machine(url: str) -> None:
    with pytest.raises(SettingsError, match="does not lead to this machine"):
        connect(Settings(chat_engine_url=url))


def test_conversations_go_through_no_proxy_that_the_machine_has(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    engine = connect(configured(server))
    assert write(engine)[1].text == "Hello."
    engine.close()


def test_of_several_models_one_is_named(server: OpenAIServer) -> None:
    server.models = [{"id": "a", "max_model_len": 10}, {"id": "b", "max_model_len": 20}]
    for wrong in (None, "c"):
        with pytest.raises(SettingsError, match=r"CHAT_ENGINE_MODEL must be one of .*: a, b"):
            connect(configured(server, chat_engine_model=wrong))
    engine = connect(configured(server, chat_engine_model="b"))
    assert engine.models["qwen_instruct"].context_length == 20
    engine.close()


def test_a_server_that_lists_nothing_is_believed_to_have_what_is_configured(server: OpenAIServer) -> None:
    server.models = []
    with pytest.raises(SettingsError, match="CHAT_ENGINE_MODEL"):
        connect(configured(server))
    engine = connect(configured(server, chat_engine_model="a", chat_engine_context=9, chat_instruct_name="mine"))
    assert dict(engine.models) == {"mine": ModelFacts(9)}
    engine.close()


def test_a_server_that_does_not_say_how_much_it_holds_needs_to_be_told(server: OpenAIServer) -> None:
    server.models = [{"id": "a"}]
    with pytest.raises(SettingsError, match="CHAT_ENGINE_CONTEXT"):
        connect(configured(server))
    engine = connect(configured(server, chat_engine_context=77))
    assert engine.models["qwen_instruct"].context_length == 77
    engine.close()


def test_it_needs_no_torch() -> None:
    """So that the image of such a server may have a build of its own."""
    code = (
        "import sys, handlers.chat.handler, handlers.chat.generate, handlers.chat.http_engine;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
