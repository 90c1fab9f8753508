"""Many conversations streamed at once, written together by the real engine: each reader gets a text of his own, the one he gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load.around import PATIENCE
from tests.shared.serverless.conftest import Loop, started

NUMBERS = range(16)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Loop]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1", "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "JOB_CONCURRENCY": "16"}
    with started(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **environment) as running:
        yield running


def conversation(loop: Loop, job_id: str, number: int, **fields: Any) -> dict[str, Any]:
    """The conversation of a number: greedy or drawn, of its own length, seed and words."""
    words = [{"role": "system", "content": f"You are number {number}."}, {"role": "user", "content": f"Say {number} " * (1 + number % 5)}]
    how = {"temperature": 0} if number % 2 else {"temperature": 1.0, "seed": number, "top_p": 0.95}
    request = {"id": job_id, "user_id": f"user-{number}", "messages": words, "max_tokens": 40 + 10 * number, "stream": True, **how}
    return {"id": job_id, "input": {**request, "callback_url": f"{loop.inbox.url}?job={job_id}", **fields}}


def read(loop: Loop, job_id: str) -> Any:
    """What a stream came to, having seen that its pieces are its own text, in order."""
    output = loop.gateway.result(job_id, PATIENCE)["output"]
    *pieces, payload = loop.gateway.streamed(job_id)
    assert output == [*pieces, payload]
    assert (payload["job_id"], payload["status"]) == (job_id, "completed")
    assert "".join(piece["delta"] for piece in pieces) == payload["response"]
    (message,) = [message for message in loop.inbox.messages if message.payload["job_id"] == job_id]
    assert (message.payload, message.path.rpartition("=")[2]) == (payload, job_id)
    return payload


def written(payload: Any) -> tuple[Any, ...]:
    facts = payload["assets"][0]["metadata"]
    return payload["response"], facts["tokens_generated"], facts["finish_reason"], facts["prompt_tokens"]


@pytest.fixture(scope="module")
def alone(loop: Loop) -> dict[int, tuple[Any, ...]]:
    """What each conversation comes to when there is no other."""
    texts = {}
    for number in NUMBERS:
        loop.gateway.submit(conversation(loop, f"alone-{number}", number))
        texts[number] = written(loop.gateway.result(f"alone-{number}", PATIENCE)["output"][-1])
    return texts


@pytest.mark.slow
def test_sixteen_conversations_at_once_are_each_what_they_are_alone(loop: Loop, alone: dict[int, tuple[Any, ...]]) -> None:
    assert len(set(alone.values())) == len(NUMBERS), "no two are alike"
    for number in NUMBERS:
        loop.gateway.submit(conversation(loop, f"together-{number}", number))
    assert {number: written(read(loop, f"together-{number}")) for number in NUMBERS} == alone


@pytest.mark.slow
def test_a_stream_that_is_stopped_stops_alone(loop: Loop, alone: dict[int, tuple[Any, ...]]) -> None:
    stopped = {3, 8, 12}
    for number in NUMBERS:
        fields = {"max_tokens": 1900, "repetition_penalty": 0.5} if number in stopped else {}
        loop.gateway.submit(conversation(loop, f"some-{number}", number, **fields))
    for number in stopped:
        loop.gateway.wait_for(lambda job_id=f"some-{number}": bool(loop.gateway.streamed(job_id)), PATIENCE)  # type: ignore[misc]
        loop.gateway.stop(f"some-{number}")
    others = [number for number in NUMBERS if number not in stopped]
    assert {number: written(read(loop, f"some-{number}")) for number in others} == {number: alone[number] for number in others}
    for number in stopped:
        assert loop.gateway.results(f"some-{number}") == []
        (told,) = loop.callbacks(f"some-{number}")
        assert told["metadata"]["error_code"] == "CANCELLED"
