"""RunPod's own Python client reads a chat worker's stream: text, then the payload, and also a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.gateway import RunningGateway
from tests.handlers.reported.jobs import reported


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Any]:
    import runpod

    variables = {"CHAT_STREAMING": "1", "JOB_CONCURRENCY": "3"}
    folder = tmp_path_factory.mktemp("client")
    with (
        RunningGateway(folder, {"chat": "handlers.chat.handler"}, models=tiny_models, variables=variables) as gateway,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(runpod, "endpoint_url_base", gateway.url)
        yield runpod.Endpoint("chat", api_key="any")


def test_a_stream_is_its_text_and_the_payload(endpoint: Any) -> None:
    *deltas, payload = endpoint.run({"input": {"prompt": "x", "temperature": 0, "max_tokens": 30, "stream": True}}).stream()
    assert payload["status"] == "completed"
    assert "".join(delta["delta"] for delta in deltas) == payload["response"]


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        (reported("stream_error_own_form.json")["input"], "VALIDATION_ERROR", "temperature"),
        ({"prompt": "x", "max_tokens": 0, "stream": True}, "VALIDATION_ERROR", "max_tokens"),
        ({"prompt": "x", "model": "no such model", "stream": True}, "VALIDATION_ERROR", "model"),
        ({"prompt": "word " * 4000, "max_tokens": 4, "stream": True}, "CONTEXT_LENGTH_EXCEEDED", "tokens"),
        ({"stream": True}, "VALIDATION_ERROR", "messages"),
    ],
    ids=["the reported request", "no tokens", "another model", "too long", "nothing to answer"],
)
def test_the_reader_of_a_failed_stream_sees_the_failure(endpoint: Any, fields: dict[str, Any], code: str, field: str) -> None:
    job = endpoint.run({"input": fields})
    *_, last = job.stream()
    assert (last["status"], last["metadata"]["error_code"]) == ("failed", code)
    assert field in last["error_message"]
    assert job.status() == "FAILED"
