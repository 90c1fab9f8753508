"""RunPod's local server, `--rp_serve_api`, streams chat."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.forked import Process
from tests.doubles.processes import clean_environment, start_module

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12, "stream": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path_factory.mktemp("local")
    environment = clean_environment(MODELS_DIR=str(tiny_models), OUTPUT_DIR=str(folder), CHAT_STREAMING="1")
    options = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", port)
    with open(os.devnull, "wb") as null:
        process = start_module("handlers.chat.handler", *options, folder=folder, environment=environment, output=null.fileno())
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        try:
            _wait_until_ready(client, process)
            yield client
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(client: httpx.Client, process: Process | subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get("/openapi.json")
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the local server has not started")


def stream(server: httpx.Client, request: dict[str, Any]) -> list[Any]:
    job = server.post("/run", json={"input": request}).json()["id"]
    answer = server.post(f"/stream/{job}").json()
    assert answer["status"] == "COMPLETED"
    return [piece["output"] for piece in answer["stream"]]


def test_the_local_server_streams_deltas_and_the_payload(server: httpx.Client) -> None:
    *deltas, payload = stream(server, REQUEST)
    assert "".join(delta["delta"] for delta in deltas) == payload["response"] != ""


def test_a_failed_stream_of_the_local_server_ends_with_its_error(server: httpx.Client) -> None:
    (payload,) = stream(server, REQUEST | {"temperature": 9})
    assert (payload["status"], payload["metadata"]["error_code"]) == ("failed", "VALIDATION_ERROR")


@pytest.mark.parametrize(("temperature", "end"), [(0, "data: [DONE]\n\n"), (9, '"param":"temperature","code":"validation_error"}}\n\n')])
def test_the_local_server_streams_openais_form_to_its_end_or_its_error(server: httpx.Client, temperature: float, end: str) -> None:
    body = REQUEST | {"model": "qwen_instruct", "temperature": temperature}
    text = "".join(stream(server, {"openai_route": "/v1/chat/completions", "openai_input": body}))
    assert text.startswith("data: {")
    assert text.endswith(end)
