"""Jobs run from the public API through the real SDK loop of workers and back, whatever happens to these workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import runpod

from tests.doubles.echo import FAIL_MARKER
from tests.doubles.gateway import RunningGateway
from tests.doubles.stub_worker import HOLD
from tests.doubles.waiting import wait_until

ENDPOINTS = {"paint": "tests.doubles.stub_worker", "echo": "tests.doubles.echo"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[RunningGateway]:
    variables = {"CHAT_STREAMING": "true", "PROGRESS_INTERVAL": "0.5"}
    with RunningGateway(tmp_path_factory.mktemp("gateway"), ENDPOINTS, models=tiny_models, variables=variables) as running:
        yield running


@pytest.fixture
def client(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> runpod.Endpoint:
    monkeypatch.setattr(runpod, "endpoint_url_base", gateway.url)
    monkeypatch.setattr(runpod, "api_key", "any")
    return runpod.Endpoint("paint")


@pytest.fixture
def chat(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/echo/openai/v1", api_key="any", max_retries=0)


def paint(prompt: str = "blue", **fields: Any) -> dict[str, Any]:
    """A minimal request; its id differs from RunPod's."""
    return {"id": f"job-{prompt.replace(' ', '-')}", "user_id": "u", "type": "sdxl_image_high", "prompt": prompt, **fields}


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_the_official_client_follows_a_job_to_its_output(client: runpod.Endpoint, gateway: RunningGateway) -> None:
    job = client.run({"input": paint("green")})
    assert job.output(timeout=60)["job_id"] == "job-green"
    status = gateway.request("GET", f"paint/status/{job.job_id}").json()
    assert {"delayTime", "executionTime", "workerId"} < status.keys()


def test_the_official_client_sees_the_error_of_a_failed_job(client: runpod.Endpoint, gateway: RunningGateway) -> None:
    job = client.run({"input": paint("red", num_images=5)})
    gateway.wait_for("paint", lambda endpoint: endpoint.job(job.job_id).status.final)
    status = gateway.request("GET", f"paint/status/{job.job_id}").json()
    assert status["status"] == "FAILED"
    assert "num_images" in status["error"]
    assert status["output"]["metadata"]["error_code"] == "VALIDATION_ERROR"


def test_a_job_in_progress_shows_its_steps_and_is_stopped_within_them(client: runpod.Endpoint, gateway: RunningGateway) -> None:
    job = client.run({"input": paint("endlessly")})
    gateway.wait_for("paint", lambda endpoint: endpoint.job(job.job_id).output)
    progress = gateway.request("GET", f"paint/status/{job.job_id}").json()
    assert progress["status"] == "IN_PROGRESS"
    assert 0 < progress["output"]["step"] <= progress["output"]["steps"]
    job.cancel()
    assert job.status() == "CANCELLED"
    assert client.run_sync({"input": paint("next")})["status"] == "completed", "the worker is free again"


def test_the_result_can_be_fetched_and_its_callback_is_verified(client: runpod.Endpoint, gateway: RunningGateway) -> None:
    asset = client.run_sync({"input": paint("picture")})["assets"][0]
    image = httpx.get(f"{gateway.root}/assets/{asset['url']}")
    assert (image.headers["content-type"], len(image.content)) == ("image/png", asset["file_size_bytes"])
    (callback,) = httpx.get(f"{gateway.root}/callbacks/job-picture").json()
    assert callback["problem"] is None
    assert json.loads(callback["body"])["assets"][0]["url"] == asset["url"]


def test_runpods_own_webhook_is_called_with_the_status_and_the_input(gateway: RunningGateway, client: runpod.Endpoint) -> None:
    """It has no signature, so it counts as unverified."""
    request = paint("webhook")
    url = f"{gateway.root}/callbacks"
    job_id = gateway.request("POST", "paint/run", json={"input": request, "webhook": url}).json()["id"]
    gateway.wait_for("paint", lambda endpoint: endpoint.job(job_id).status.final)

    def unverified() -> list[Any]:
        return [json.loads(each["body"]) for each in httpx.get(f"{gateway.root}/callbacks/job-webhook").json() if each["problem"]]

    wait_until(unverified)
    assert [(each["id"], each["status"], each["input"], each["webhook"]) for each in unverified()] == [(job_id, "COMPLETED", request, url)]


def test_a_job_whose_worker_is_killed_is_done_by_the_next_one(gateway: RunningGateway, client: runpod.Endpoint) -> None:
    hold = gateway.logs / HOLD
    hold.touch()
    job = client.run({"input": paint("held")})
    gateway.wait_for("paint", lambda endpoint: endpoint.job(job.job_id).output)
    killed = gateway.kill_worker("paint")
    hold.unlink()
    gateway.wait_for("paint", lambda endpoint: endpoint.job(job.job_id).status.final)
    status = gateway.request("GET", f"paint/status/{job.job_id}").json()
    assert (status["status"], status["retries"]) == ("COMPLETED", 1)
    assert status["workerId"] != killed


def test_the_openai_client_sees_a_wrong_field_as_a_bad_request(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.chat.completions.create(model="qwen_instruct", messages=messages("Hello"), temperature=9)


def test_the_openai_client_sees_a_failure_in_mid_stream(chat: openai.OpenAI) -> None:
    chunks = chat.chat.completions.create(model="qwen_instruct", messages=messages(f"Hello {FAIL_MARKER}"), stream=True)
    with pytest.raises(openai.APIError, match="echo has failed"):
        list(chunks)


def test_a_reader_that_hangs_up_frees_the_worker(chat: openai.OpenAI, gateway: RunningGateway) -> None:
    with chat.chat.completions.create(model="qwen_instruct", messages=messages("word " * 2000), stream=True) as chunks:
        next(iter(chunks))
    gateway.wait_for("echo", lambda endpoint: endpoint.health()["jobs"]["inProgress"] == 0)
