"""Streamed text arrives completely, in order, in whole characters and masked."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.echo import CLOSED_LOG, FAIL_MARKER
from tests.doubles.waiting import wait_until
from tests.shared.serverless.conftest import WorkerHarness, start_worker

ALPHABETS = (
    "abc de",
    "äöüßéñ ",
    "你好世界。",
    "🦢🏽👨‍👩‍👧🇨🇭❤️ ",
    "हिन्दी ",
    "עברית ",
    "\n\t \u00a0\u2028",
    "e\u0301a\u0308\u200d",
    "<|im_end|>",
    "𝔘𝔫𝔦𐍈",
    '{"a": "\\u00e9"}',
)


def texts(count: int) -> list[str]:
    """Returns reproducible random texts of many scripts, NFC-normalized like the tokenizer's output."""
    rng = random.Random(7)
    mixed = ("".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randint(1, 60))) for _ in range(count))
    return [unicodedata.normalize("NFC", text) for text in mixed]


def job(job_id: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"messages": [{"role": "user", "content": text}], "stream": True} | fields}


def deltas(harness: WorkerHarness, job_id: str) -> list[str]:
    return [piece["delta"] for piece in harness.runpod_api.streamed(job_id) if "delta" in piece]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1", "SFW_WORDS": "damn, New York"}
    with start_worker(tmp_path_factory.mktemp("echo"), "tests.doubles.echo", **environment) as running:
        yield running


def test_texts_of_all_scripts_arrive_unchanged(harness: WorkerHarness) -> None:
    sent = dict(zip((f"text-{number}" for number in itertools.count()), texts(200), strict=False))
    for job_id, text in sent.items():
        harness.runpod_api.submit(job(job_id, text))
    for job_id, text in sent.items():
        *_, payload = harness.runpod_api.result(job_id)["output"]
        assert payload["response"] == text
        assert "".join(deltas(harness, job_id)) == text
    assert max(len(deltas(harness, job_id)) for job_id in sent) > 1


def test_slow_reader_gets_few_deltas_and_does_not_delay_generation(harness: WorkerHarness) -> None:
    log = harness.worker.folder / CLOSED_LOG
    before = log.read_text() if log.exists() else ""

    def hold_until_generated(job_id: str) -> None:
        if job_id == "slow":
            wait_until(lambda: log.exists() and log.read_text() != before, "generation waits for the reader")

    harness.runpod_api.on_chunk_sent = hold_until_generated
    harness.runpod_api.submit(job("slow", "word " * 400))
    *_, payload = harness.runpod_api.result("slow")["output"]
    assert "".join(deltas(harness, "slow")) == payload["response"] == "word " * 400
    assert len(deltas(harness, "slow")) <= 3, "what was generated while the first one was read is in one delta"


def test_deltas_never_contain_masked_words(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(job("masked", "Damn, in New York and in Scunthorpe: damned. " * 20, sfw_mode=True))
    *_, payload = harness.runpod_api.result("masked")["output"]
    assert payload["response"] == "****, in *** **** and in Scunthorpe: damned. " * 20
    assert "".join(deltas(harness, "masked")) == payload["response"]
    assert len(deltas(harness, "masked")) > 1


def test_interrupted_stream_yields_its_text_and_the_error(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(job("broken", "some words " + FAIL_MARKER))
    assert harness.runpod_api.result("broken")["error"] == "The echo has failed. Send the job again."
    assert ("some words " + FAIL_MARKER).startswith("".join(deltas(harness, "broken")))
    assert deltas(harness, "broken") != []


def test_cancellation_during_a_delta_stops_generation(harness: WorkerHarness) -> None:
    """The SDK then drops the generator without closing it."""
    harness.runpod_api.stream_delay = 1.0
    try:
        harness.runpod_api.submit(job("gone", "word " * 20_000))
        harness.runpod_api.wait_for(lambda: bool(deltas(harness, "gone")))
        harness.runpod_api.stop("gone")
        log = harness.worker.folder / CLOSED_LOG
        harness.runpod_api.wait_for(lambda: log.read_text().endswith("aborted\n"), seconds=60)
    finally:
        harness.runpod_api.stream_delay = 0.0
    assert harness.runpod_api.results("gone") == []


def test_without_streaming_updates_contain_the_text_so_far(tmp_path: Path, tiny_models: Path) -> None:
    with start_worker(tmp_path, "tests.doubles.echo", MODELS_DIR=str(tiny_models)) as harness:
        harness.runpod_api.submit(job("watched", "Grüße 🦢 " * 100, stream=False))
        payload = harness.runpod_api.result("watched")["output"]
        shown = [update["text"] for update in harness.runpod_api.progress("watched")]
    assert len(shown) >= 2
    for earlier, later in itertools.pairwise([*shown, payload["response"]]):
        assert later.startswith(earlier)
    assert shown[-1] == payload["response"] == "Grüße 🦢 " * 100
    assert harness.runpod_api.streamed("watched") == []


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[WorkerHarness]:
    """A worker without `CHAT_STREAMING`, which returns single objects."""
    with start_worker(tmp_path_factory.mktemp("default"), "tests.doubles.echo", MODELS_DIR=str(tiny_models)) as running:
        yield running


def test_the_default_worker_streams_and_returns_the_payload(default: WorkerHarness) -> None:
    default.runpod_api.submit(job("own", "Grüße 🦢 " * 100))
    payload = default.runpod_api.result("own")["output"]
    assert payload["response"] == "".join(deltas(default, "own")) == "Grüße 🦢 " * 100
    assert len(deltas(default, "own")) > 1
    assert default.runpod_api.streamed("own")[-1] == payload
    assert default.runpod_api.progress("own") == []


def test_the_default_worker_streams_in_openais_form(default: WorkerHarness) -> None:
    body = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "Grüße"}]}
    for job_id, changes in (("whole", {}), ("events", {"stream": True})):
        form = {"openai_route": "/v1/chat/completions", "openai_input": body | changes}
        default.runpod_api.submit({"id": job_id, "input": form})
    default.runpod_api.submit({"id": "models", "input": {"openai_route": "/v1/models", "openai_input": None}})
    for job_id in ("whole", "events"):
        assert default.runpod_api.result(job_id)["output"]["choices"][0]["message"]["content"] == "Grüße"
    assert default.runpod_api.result("models")["output"]["data"][0]["id"] == "qwen_instruct"
    assert "".join(default.runpod_api.streamed("events")).endswith("data: [DONE]\n\n")
    assert default.runpod_api.streamed("whole") == []


def test_a_failed_stream_of_the_default_worker_ends_with_its_error_in_both_forms(default: WorkerHarness) -> None:
    default.runpod_api.submit(job("failed", "some words " + FAIL_MARKER))
    result = default.runpod_api.result("failed")
    assert result["error"] == "The echo has failed. Send the job again."
    assert default.runpod_api.streamed("failed")[-1]["error_message"] == result["error"]
    body = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "hello"}], "stream": True, "temperature": 9}
    default.runpod_api.submit({"id": "invalid", "input": {"openai_route": "/v1/chat/completions", "openai_input": body}})
    error = json.loads(default.runpod_api.result("invalid")["error"])
    (event,) = default.runpod_api.streamed("invalid")
    assert json.loads(event.removeprefix("data: ")) == error
    assert error["error"]["param"] == "temperature"


def test_cancelling_a_stream_of_the_default_worker_stops_generation(default: WorkerHarness) -> None:
    default.runpod_api.stream_delay = 1.0
    try:
        default.runpod_api.submit(job("gone", "word " * 20_000))
        default.runpod_api.wait_for(lambda: bool(deltas(default, "gone")))
        default.runpod_api.stop("gone")
        log = default.worker.folder / CLOSED_LOG
        default.runpod_api.wait_for(lambda: log.read_text().endswith("aborted\n"), seconds=60)
    finally:
        default.runpod_api.stream_delay = 0.0
    assert default.runpod_api.results("gone") == []
