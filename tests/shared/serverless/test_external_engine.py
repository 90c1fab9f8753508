"""A chat worker whose engine is a server beside it, in the real SDK's loop."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI

from tests.doubles.openai_proxy import OpenAIProxy
from tests.doubles.openai_server import OpenAIServer, ScriptedRequest, reply
from tests.doubles.worker import clean_environment
from tests.shared.serverless.conftest import Loop, started

HELLO: Any = [{"role": "user", "content": "canary-words"}]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[Loop]:
    environment = {"CHAT_ENGINE_URL": server.url, "CHAT_STREAMING": "1", "JOB_CONCURRENCY": "4", "SFW_WORDS": "damn"}
    with started(tmp_path_factory.mktemp("beside"), "handlers.chat.handler", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(loop: Loop) -> Iterator[OpenAI]:
    with OpenAIProxy(loop.runpod_api) as proxy, OpenAI(base_url=proxy.url, api_key="canary-key", max_retries=0, timeout=60) as client:
        yield client


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"messages": HELLO, **fields}}


def test_external_engine_needs_no_weights(loop: Loop, server: OpenAIServer) -> None:
    server.scripts.append(reply("Damn", " good", reason="length"))
    loop.runpod_api.submit(job("whole", sfw_mode=True))
    (payload,) = loop.runpod_api.result("whole")["output"]
    assert payload["response"] == "**** good"
    assert payload["assets"][0]["metadata"]["finish_reason"] == "length"
    assert payload["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert payload["model_info"] == {"model": "qwen_instruct", "context_length": 1000}


def test_stream_reaches_the_openai_client(client: OpenAI, server: OpenAIServer) -> None:
    server.scripts.append(reply('"Grüße ', "🦢", " \u2028 ", '中文"'))
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}
    chunks = client.chat.completions.create(model="qwen_instruct", messages=HELLO, stream=True, response_format=form)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == '"Grüße 🦢 \u2028 中文"'
    assert server.requests[-1]["response_format"]["type"] == "json_schema"


def test_interrupted_stream_fails_for_the_client_and_for_runpod(client: OpenAI, server: OpenAIServer) -> None:
    def breaks(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("some words")
        request.hang_up()

    server.scripts.append(breaks)
    chunks = client.chat.completions.create(model="qwen_instruct", messages=HELLO, stream=True)
    read: list[str | None] = []
    with pytest.raises(APIError, match="broke off") as caught:
        read.extend(chunk.choices[0].delta.content for chunk in chunks)
    assert (caught.value.code, caught.value.type) == ("generation_error", "server_error")
    assert "".join(text or "" for text in read) == "some words"


def test_unknown_model_is_rejected_with_openais_error_object(client: OpenAI) -> None:
    with pytest.raises(APIError, match="Available: qwen_instruct") as caught:
        client.chat.completions.create(model="qwen_base", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("model_unavailable", "invalid_request_error")
    assert [model.id for model in client.models.list()] == ["qwen_instruct"]


def test_cancelled_job_closes_its_connection_to_the_server(loop: Loop, server: OpenAIServer) -> None:
    left = threading.Event()

    def silent(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("some words")
        if request.wait_for_disconnect():
            left.set()

    server.scripts.append(silent)
    loop.runpod_api.submit(job("stopped", stream=True))
    loop.runpod_api.wait_for(lambda: bool(loop.runpod_api.streamed("stopped")))
    loop.runpod_api.stop("stopped")
    assert left.wait(20), loop.worker.log
    assert loop.runpod_api.results("stopped") == []


def test_conversations_are_not_logged(loop: Loop, server: OpenAIServer) -> None:
    server.scripts.append(lambda request: request.refuse(400, {"error": {"message": json.dumps(request.body)}}))
    loop.runpod_api.submit(job("refused"))
    assert "canary" not in loop.runpod_api.result("refused")["error"]
    assert "canary" not in loop.worker.log


def test_self_check_needs_no_weights(tmp_path: Path) -> None:
    environment = clean_environment(MODELS_DIR=str(tmp_path / "none"), CHAT_ENGINE_URL="http://127.0.0.1:9")
    command = [sys.executable, "-m", "handlers.chat.handler", "--check", "weights"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unreachable_server_replaces_the_worker(tmp_path: Path) -> None:
    with OpenAIServer() as server, started(tmp_path, "handlers.chat.handler", CHAT_ENGINE_URL=server.url) as loop:
        server.__exit__(None, None, None)
        loop.runpod_api.submit(job("last"))
        assert "the worker is replaced" in loop.runpod_api.result("last")["error"]
        loop.runpod_api.drain()
        loop.worker.wait()
