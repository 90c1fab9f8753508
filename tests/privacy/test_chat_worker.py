"""A chat worker in the SDK's loop never logs conversation content or keys, however a job ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shared.serverless.conftest import WorkerHarness, start_worker

pytestmark = pytest.mark.slow

CONVERSATION = [
    {"role": "system", "content": "canary-system"},
    {"role": "user", "content": "canary-user"},
    {"role": "assistant", "content": "canary-assistant"},
    {"role": "user", "content": "canary-question"},
]
STOPS = ["canary-stop", "canary-another-stop"]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "canary-name", "schema": {"type": "boolean", "description": "canary-schema"}}}
OPENAI = {"model": "qwen_instruct", "messages": CONVERSATION, "max_tokens": 2, "stop": STOPS, "user": "canary-openai-user"}

JOBS: dict[str, dict[str, Any]] = {
    "completed": {"messages": CONVERSATION, "max_tokens": 2, "stop": STOPS},
    "structured-output": {"messages": CONVERSATION, "max_tokens": 16, "response_format": SCHEMA},
    "enhanced": {"type": "enhance", "prompt": "canary-prompt", "system_prompt": "canary-system", "max_tokens": 2},
    # Several words each: error messages repeat single words, so that callers see the rejected value.
    "invalid": {
        "messages": [{"role": "canary role", "content": ["canary content"]}],
        "max_tokens": "canary number",
        "stop": {"a": "canary"},
    },
    "invalid-everywhere": {
        "prompt": {"a": "canary"},
        "messages": "canary-messages",
        "callback_url": "https://canary.example/?token=canary",
    },
    "unknown-fields": {"messages": CONVERSATION, "max_tokens": 2, "metadata": {"note": "canary-note"}, "extra": "canary-extra"},
    "too-long": {"messages": [{"role": "user", "content": "canary-long " * 4000}]},
    "no-such-model": {"messages": CONVERSATION, "model": "sk-canary0123456789abcdef"},
    "callback": {"messages": CONVERSATION, "max_tokens": 2, "callback_url": "{receiver}?token=canary-callback-token"},
    "callback-unreachable": {"messages": CONVERSATION, "max_tokens": 2, "callback_url": "http://127.0.0.1:1/?token=canary-callback-token"},
    "openai": {"openai_route": "/v1/chat/completions", "openai_input": OPENAI},
    "openai-invalid": {
        "openai_route": "/v1/chat/completions",
        "openai_input": OPENAI | {"max_tokens": "canary number", "stop": [["canary"]]},
    },
    "openai-unknown-route": {"openai_route": "/v1/canary-route", "openai_input": OPENAI},
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    variables = {"MODELS_DIR": str(tiny_models), "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "CALLBACK_DEADLINE": "1", "OUTBOX_DIR": "outbox"}
    with start_worker(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **variables) as running:
        yield running


def test_no_result_or_callback_repeats_the_conversation(loop: WorkerHarness) -> None:
    for name, request in JOBS.items():
        request = json.loads(json.dumps(request).replace("{receiver}", loop.receiver.url))
        loop.runpod_api.submit({"id": name, "input": {"type": "chat", **request}})
    loop.runpod_api.submit({"id": "late", "input": {"type": "chat", "messages": CONVERSATION}, "policy": {"executionTimeout": 1}})
    results = {name: json.dumps(loop.runpod_api.result(name)) for name in (*JOBS, "late")}
    # A model with random weights does not repeat its input, so a match in a response comes from the worker.
    assert [name for name, result in results.items() if "canary" in result or "Traceback" in result] == []
    ended = {name: "failed" if '"error"' in result else "completed" for name, result in results.items()}
    assert ended["completed"] == ended["enhanced"] == ended["callback"] == ended["callback-unreachable"] == "completed"
    assert ended["invalid"] == ended["too-long"] == ended["no-such-model"] == ended["late"] == "failed"
    assert [message.payload["job_id"] for message in loop.receiver.messages] == ["callback"]
    assert "canary" not in "".join(json.dumps(message.payload) for message in loop.receiver.messages)


def test_pending_outbox_entries_contain_no_key_and_no_conversation(loop: WorkerHarness) -> None:
    entries = list((loop.worker.folder / "outbox").glob("*/entry.json"))
    assert entries
    for entry in entries:
        kept = json.loads(entry.read_text())
        # The callback URL is stored as it was sent, since delivery needs it. The folder is private to its owner.
        assert kept.pop("callback_url") is None or kept["job_id"] == "callback-unreachable"
        assert "canary" not in json.dumps(kept)
        assert (entry.parent.stat().st_mode & 0o777, entry.parent.parent.stat().st_mode & 0o777) == (0o700, 0o700)


def test_its_log_contains_no_conversation_and_no_key(loop: WorkerHarness) -> None:
    assert '"event": "job ended"' in loop.worker.log
    assert "canary" not in loop.worker.log
    assert "Traceback" not in loop.worker.log


def test_a_result_that_cannot_be_returned_is_not_logged(loop: WorkerHarness) -> None:
    """RunPod rejects the result repeatedly; the SDK logs the URL of the failed request, but not its key."""
    loop.runpod_api.result_statuses.extend([500] * 3)
    loop.runpod_api.submit({"id": "unanswered", "input": {"type": "chat", "messages": CONVERSATION, "max_tokens": 2}})

    def attempts() -> list[int]:
        return [post.status for post in loop.runpod_api.posts if post.job_id == "unanswered" and post.is_result]

    loop.runpod_api.wait_for(lambda: attempts() == [500] * 3)
    loop.runpod_api.submit({"id": "next", "input": {"type": "chat", "messages": CONVERSATION, "max_tokens": 2}})
    loop.runpod_api.result("next")
    assert "Failed to return job results" in loop.worker.log
    assert "canary" not in loop.worker.log
