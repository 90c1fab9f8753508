"""Chat with `CHAT_STREAMING=1`: pieces of text while it is written, the payload last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shared.serverless.conftest import Loop, started


def job(job_id: str, **fields: Any) -> dict[str, Any]:
    request = {"id": job_id, "user_id": "user-1", "type": "chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    return {"id": job_id, "input": {**request, "max_tokens": 200, "stream": True} | fields}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Loop]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1"}
    with started(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **environment) as running:
        yield running


def test_deltas_add_up_to_the_response_and_the_payload_is_last(loop: Loop) -> None:
    loop.runpod_api.submit(job("streamed"))
    output = loop.runpod_api.result("streamed")["output"]
    *pieces, payload = loop.runpod_api.streamed("streamed")
    assert len(pieces) >= 2
    assert payload["status"] == "completed"
    assert "".join(piece["delta"] for piece in pieces) == payload["response"]
    assert output == [*pieces, payload], "a generator's final output is everything that it yielded"


def test_tokens_are_joined_into_fewer_deltas(loop: Loop) -> None:
    loop.runpod_api.submit(job("joined"))
    loop.runpod_api.result("joined")
    *pieces, payload = loop.runpod_api.streamed("joined")
    assert len(pieces) < payload["tokens_generated"] / 2


def test_request_without_stream_gets_only_the_payload(loop: Loop) -> None:
    loop.runpod_api.submit(job("whole", stream=False))
    (payload,) = loop.runpod_api.result("whole")["output"]
    assert payload["status"] == "completed"


def test_invalid_streaming_request_fails(loop: Loop) -> None:
    loop.runpod_api.submit(job("wrong", max_tokens=0))
    assert "max_tokens" in loop.runpod_api.result("wrong")["error"]


def test_cancelled_stream_ends_and_the_next_job_runs(loop: Loop) -> None:
    loop.runpod_api.submit(job("stopped", max_tokens=1500))
    loop.runpod_api.wait_for(lambda: bool(loop.runpod_api.streamed("stopped")))
    loop.runpod_api.stop("stopped")
    loop.runpod_api.submit(job("next", max_tokens=4))
    assert loop.runpod_api.result("next")["output"][-1]["status"] == "completed"
    assert loop.runpod_api.results("stopped") == []
    assert all("delta" in piece for piece in loop.runpod_api.streamed("stopped"))
