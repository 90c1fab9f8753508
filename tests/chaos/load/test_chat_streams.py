"""Continuous batching of streamed conversations in the real engine: each stream carries the text that it has when it runs alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load.harness import TIMEOUT
from tests.shared.serverless.conftest import WorkerHarness, start_worker

NUMBERS = range(16)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1", "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "JOB_CONCURRENCY": "16"}
    with start_worker(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **environment) as harness:
        yield harness


def conversation(harness: WorkerHarness, job_id: str, number: int, **fields: Any) -> dict[str, Any]:
    """Returns a chat job whose prompt, length, seed and decoding depend on a number: odd ones are greedy, even ones are sampled."""
    messages = [
        {"role": "system", "content": f"You are number {number}."},
        {"role": "user", "content": f"Say {number} " * (1 + number % 5)},
    ]
    decoding = {"temperature": 0} if number % 2 else {"temperature": 1.0, "seed": number, "top_p": 0.95}
    request = {"id": job_id, "user_id": f"user-{number}", "messages": messages, "max_tokens": 40 + 10 * number, "stream": True, **decoding}
    return {"id": job_id, "input": {**request, "callback_url": f"{harness.receiver.url}?job={job_id}", **fields}}


def read(harness: WorkerHarness, job_id: str) -> Any:
    """Returns the payload of a stream. Asserts that its chunks add up to the response, and that RunPod and the receiver have the same."""
    output = harness.runpod_api.result(job_id, TIMEOUT)["output"]
    *chunks, payload = harness.runpod_api.streamed(job_id)
    assert output == [*chunks, payload]
    assert (payload["job_id"], payload["status"]) == (job_id, "completed")
    assert "".join(chunk["delta"] for chunk in chunks) == payload["response"]
    (message,) = [message for message in harness.receiver.messages if message.payload["job_id"] == job_id]
    assert (message.payload, message.path.rpartition("=")[2]) == (payload, job_id)
    return payload


def completion(payload: Any) -> tuple[Any, ...]:
    metadata = payload["assets"][0]["metadata"]
    return payload["response"], metadata["tokens_generated"], metadata["finish_reason"], metadata["prompt_tokens"]


@pytest.fixture(scope="module")
def alone(harness: WorkerHarness) -> dict[int, tuple[Any, ...]]:
    """The completion of each conversation when no other runs."""
    completions = {}
    for number in NUMBERS:
        harness.runpod_api.submit(conversation(harness, f"alone-{number}", number))
        completions[number] = completion(harness.runpod_api.result(f"alone-{number}", TIMEOUT)["output"][-1])
    return completions


@pytest.mark.slow
def test_sixteen_concurrent_streams_equal_those_that_run_alone(harness: WorkerHarness, alone: dict[int, tuple[Any, ...]]) -> None:
    assert len(set(alone.values())) == len(NUMBERS), "all completions differ"
    for number in NUMBERS:
        harness.runpod_api.submit(conversation(harness, f"together-{number}", number))
    assert {number: completion(read(harness, f"together-{number}")) for number in NUMBERS} == alone


@pytest.mark.slow
def test_cancelling_streams_does_not_affect_the_others(harness: WorkerHarness, alone: dict[int, tuple[Any, ...]]) -> None:
    cancelled = {3, 8, 12}
    for number in NUMBERS:
        fields = {"max_tokens": 1900, "repetition_penalty": 0.5} if number in cancelled else {}
        harness.runpod_api.submit(conversation(harness, f"some-{number}", number, **fields))
    for number in cancelled:
        harness.runpod_api.wait_for(lambda job_id=f"some-{number}": bool(harness.runpod_api.streamed(job_id)), TIMEOUT)  # type: ignore[misc]
        harness.runpod_api.stop(f"some-{number}")
    others = [number for number in NUMBERS if number not in cancelled]
    assert {number: completion(read(harness, f"some-{number}")) for number in others} == {number: alone[number] for number in others}
    for number in cancelled:
        assert harness.runpod_api.results(f"some-{number}") == []
        (payload,) = harness.callbacks(f"some-{number}")
        assert payload["metadata"]["error_code"] == "CANCELLED"
