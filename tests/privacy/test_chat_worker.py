"""A chat worker as RunPod runs it: nothing that anybody says to it, and no key, is in what it prints, however a job ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shared.serverless.conftest import Loop, started

pytestmark = pytest.mark.slow

SAID = [
    {"role": "system", "content": "canary-system"},
    {"role": "user", "content": "canary-user"},
    {"role": "assistant", "content": "canary-assistant"},
    {"role": "user", "content": "canary-question"},
]
STOPS = ["canary-stop", "canary-another-stop"]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "canary-name", "schema": {"type": "boolean", "description": "canary-schema"}}}
OPENAI = {"model": "qwen_instruct", "messages": SAID, "max_tokens": 2, "stop": STOPS, "user": "canary-openai-user"}

JOBS: dict[str, dict[str, Any]] = {
    "written": {"messages": SAID, "max_tokens": 2, "stop": STOPS},
    "written-in-a-form": {"messages": SAID, "max_tokens": 16, "response_format": SCHEMA},
    "enhanced": {"type": "enhance", "prompt": "canary-prompt", "system_prompt": "canary-system", "max_tokens": 2},
    # More than one word each: single words are said back, because rule 2 of the contract wants what was sent.
    "wrong": {"messages": [{"role": "canary role", "content": ["canary content"]}], "max_tokens": "canary number", "stop": {"a": "canary"}},
    "wrong-everywhere": {"prompt": {"a": "canary"}, "messages": "canary-messages", "callback_url": "https://canary.example/?token=canary"},
    "unknown-fields": {"messages": SAID, "max_tokens": 2, "metadata": {"note": "canary-note"}, "extra": "canary-extra"},
    "too-long": {"messages": [{"role": "user", "content": "canary-long " * 4000}]},
    "no-such-model": {"messages": SAID, "model": "sk-canary0123456789abcdef"},
    "called-back": {"messages": SAID, "max_tokens": 2, "callback_url": "{receiver}?token=canary-callback-token"},
    "not-called-back": {"messages": SAID, "max_tokens": 2, "callback_url": "http://127.0.0.1:1/?token=canary-callback-token"},
    "openai": {"openai_route": "/v1/chat/completions", "openai_input": OPENAI},
    "openai-wrong": {
        "openai_route": "/v1/chat/completions",
        "openai_input": OPENAI | {"max_tokens": "canary number", "stop": [["canary"]]},
    },
    "openai-nowhere": {"openai_route": "/v1/canary-route", "openai_input": OPENAI},
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Loop]:
    variables = {"MODELS_DIR": str(tiny_models), "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "CALLBACK_DEADLINE": "1", "OUTBOX_DIR": "outbox"}
    with started(tmp_path_factory.mktemp("chat"), "handlers.chat.handler", **variables) as running:
        yield running


def test_nothing_that_is_said_to_it_is_said_on(loop: Loop) -> None:
    for name, request in JOBS.items():
        request = json.loads(json.dumps(request).replace("{receiver}", loop.receiver.url))
        loop.runpod_api.submit({"id": name, "input": {"type": "chat", **request}})
    loop.runpod_api.submit({"id": "late", "input": {"type": "chat", "messages": SAID}, "policy": {"executionTimeout": 1}})
    results = {name: json.dumps(loop.runpod_api.result(name)) for name in (*JOBS, "late")}
    # A model of random numbers says nothing that it was told, so what is in an answer was put there by the worker.
    assert [name for name, result in results.items() if "canary" in result or "Traceback" in result] == []
    ended = {name: "failed" if '"error"' in result else "completed" for name, result in results.items()}
    assert ended["written"] == ended["enhanced"] == ended["called-back"] == ended["not-called-back"] == "completed"
    assert ended["wrong"] == ended["too-long"] == ended["no-such-model"] == ended["late"] == "failed"
    assert [message.payload["job_id"] for message in loop.receiver.messages] == ["called-back"]
    assert "canary" not in "".join(json.dumps(message.payload) for message in loop.receiver.messages)


def test_what_waits_in_the_outbox_holds_no_key_and_nothing_that_was_said(loop: Loop) -> None:
    entries = list((loop.worker.folder / "outbox").glob("*/entry.json"))
    assert entries
    for entry in entries:
        kept = json.loads(entry.read_text())
        # Where it is to go is as the caller has said it: without that it could not be delivered. The folder is its owner's alone.
        assert kept.pop("callback_url") is None or kept["job_id"] == "not-called-back"
        assert "canary" not in json.dumps(kept)
        assert (entry.parent.stat().st_mode & 0o777, entry.parent.parent.stat().st_mode & 0o777) == (0o700, 0o700)


def test_it_prints_none_of_it(loop: Loop) -> None:
    assert '"event": "job ended"' in loop.worker.log
    assert "canary" not in loop.worker.log
    assert "Traceback" not in loop.worker.log


def test_a_job_that_cannot_be_answered_is_not_printed(loop: Loop) -> None:
    """RunPod refuses the result again and again; the SDK says so, with the URL and without its own key."""
    loop.runpod_api.answers.extend([500] * 3)
    loop.runpod_api.submit({"id": "unanswered", "input": {"type": "chat", "messages": SAID, "max_tokens": 2}})

    def tries() -> list[int]:
        return [post.status for post in loop.runpod_api.posts if post.job_id == "unanswered" and post.is_result]

    loop.runpod_api.wait_for(lambda: tries() == [500] * 3)
    loop.runpod_api.submit({"id": "next", "input": {"type": "chat", "messages": SAID, "max_tokens": 2}})
    loop.runpod_api.result("next")
    assert "Failed to return job results" in loop.worker.log
    assert "canary" not in loop.worker.log
