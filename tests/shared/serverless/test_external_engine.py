"""A chat worker whose engine is an external inference server, under RunPod's real SDK."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI

from tests.doubles.openai_server import OpenAIServer, ScriptedRequest, reply
from tests.doubles.processes import clean_environment, run_module
from tests.shared.serverless.conftest import WorkerHarness, start_worker

HELLO: Any = [{"role": "user", "content": "canary-words"}]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[WorkerHarness]:
    environment = {"CHAT_ENGINE_URL": server.url, "CHAT_STREAMING": "1", "JOB_CONCURRENCY": "4", "SFW_WORDS": "damn"}
    with start_worker(tmp_path_factory.mktemp("external"), "handlers.chat.handler", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(harness: WorkerHarness) -> Iterator[OpenAI]:
    with OpenAI(base_url=harness.runpod_api.openai_url, api_key="canary-key", max_retries=0, timeout=60) as client:
        yield client


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"messages": HELLO, **fields}}


def test_external_engine_needs_no_weights(harness: WorkerHarness, server: OpenAIServer) -> None:
    server.scripts.append(reply("Damn", " good", reason="length"))
    harness.runpod_api.submit(job("whole", sfw_mode=True))
    (payload,) = harness.runpod_api.result("whole")["output"]
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
    def hang_up(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("some words")
        request.hang_up()

    server.scripts.append(hang_up)
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


def test_cancelled_job_closes_its_connection_to_the_server(harness: WorkerHarness, server: OpenAIServer) -> None:
    disconnected = threading.Event()

    def stall(request: ScriptedRequest) -> None:
        request.start_stream()
        request.chunk("some words")
        if request.wait_for_disconnect():
            disconnected.set()

    server.scripts.append(stall)
    harness.runpod_api.submit(job("stopped", stream=True))
    harness.runpod_api.wait_for(lambda: bool(harness.runpod_api.streamed("stopped")))
    harness.runpod_api.stop("stopped")
    assert disconnected.wait(60), harness.worker.log
    assert harness.runpod_api.results("stopped") == []


def test_conversations_are_not_logged(harness: WorkerHarness, server: OpenAIServer) -> None:
    server.scripts.append(lambda request: request.refuse(400, {"error": {"message": json.dumps(request.body)}}))
    harness.runpod_api.submit(job("refused"))
    assert "canary" not in harness.runpod_api.result("refused")["error"]
    assert "canary" not in harness.worker.log


def test_self_check_needs_no_weights(tmp_path: Path) -> None:
    environment = clean_environment(MODELS_DIR=str(tmp_path / "none"), CHAT_ENGINE_URL="http://127.0.0.1:9")
    done = run_module("handlers.chat.handler", "--check", "weights", folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unreachable_server_replaces_the_worker(tmp_path: Path) -> None:
    with OpenAIServer() as server, start_worker(tmp_path, "handlers.chat.handler", CHAT_ENGINE_URL=server.url) as harness:
        server.__exit__(None, None, None)
        harness.runpod_api.submit(job("last"))
        assert "the worker is replaced" in harness.runpod_api.result("last")["error"]
        harness.runpod_api.drain()
        harness.worker.wait()
