"""Chat with `CHAT_STREAMING=1`: deltas of the text, then the payload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.waiting import wait_until
from tests.shared.serverless.conftest import WorkerHarness, start_worker


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    request = {"id": job_id, "user_id": "user-1", "type": "chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    return {"id": job_id, "input": {**request, "max_tokens": 200, "stream": True} | fields}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1"}
    with start_worker(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **environment) as running:
        yield running


def test_deltas_add_up_to_the_response_and_the_payload_is_last(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(job("streamed", max_tokens=1000, repetition_penalty=0.5))  # never ends by itself
    output = harness.runpod_api.result("streamed")["output"]
    *deltas, payload = harness.runpod_api.streamed("streamed")
    assert len(deltas) >= 2
    assert payload["status"] == "completed"
    assert "".join(delta["delta"] for delta in deltas) == payload["response"]
    assert output == [*deltas, payload], "the aggregated output is everything that the generator yielded"


def test_tokens_are_joined_into_fewer_deltas(harness: WorkerHarness) -> None:
    def hold_until_generated(job_id: str) -> None:
        if job_id == "joined":
            wait_until(lambda: '"step": "generate"' in log(job_id), "generation waits for the reader")

    def log(job_id: str) -> str:
        return "".join(line for line in harness.worker.log.splitlines() if f'"job_id": "{job_id}"' in line)

    harness.runpod_api.on_chunk_sent = hold_until_generated
    harness.runpod_api.submit(job("joined"))
    harness.runpod_api.result("joined")
    *deltas, payload = harness.runpod_api.streamed("joined")
    assert len(deltas) < payload["tokens_generated"] / 2


def test_request_without_stream_gets_only_the_payload(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(job("whole", stream=False))
    (payload,) = harness.runpod_api.result("whole")["output"]
    assert payload["status"] == "completed"


def test_invalid_streaming_request_fails(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(job("wrong", max_tokens=0))
    message = harness.runpod_api.result("wrong")["error"]
    assert "max_tokens" in message
    (payload,) = harness.runpod_api.streamed("wrong")  # RunPod's client reads only this
    assert (payload["status"], payload["error_message"]) == ("failed", message)


def test_cancelled_stream_ends_and_the_next_job_runs(harness: WorkerHarness) -> None:
    stopped: list[str] = []

    def stop_at_once(job_id: str) -> None:
        if job_id == "stopped" and not stopped:
            stopped.append(job_id)
            harness.runpod_api.stop(job_id)

    harness.runpod_api.on_chunk_sent = stop_at_once
    harness.runpod_api.submit(job("stopped", max_tokens=1500, repetition_penalty=0.5))
    harness.runpod_api.wait_for(lambda: bool(stopped))
    harness.runpod_api.submit(job("next", max_tokens=4))
    assert harness.runpod_api.result("next")["output"][-1]["status"] == "completed"
    assert harness.runpod_api.results("stopped") == []
    assert all("delta" in delta for delta in harness.runpod_api.streamed("stopped"))
