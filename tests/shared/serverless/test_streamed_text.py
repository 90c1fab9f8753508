"""What a reader gets of a text that is written under his eyes: all of it, in order, whole characters, and nothing that is masked."""

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
from tests.shared.serverless.conftest import Loop, started

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
    """Texts of many scripts, mixed at random; always the same ones. In the form that the tokenizer brings every text into."""
    chance = random.Random(7)
    mixed = ("".join(chance.choice(chance.choice(ALPHABETS)) for _ in range(chance.randint(1, 60))) for _ in range(count))
    return [unicodedata.normalize("NFC", text) for text in mixed]


def job(job_id: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "input": {"messages": [{"role": "user", "content": text}], "stream": True} | fields}


def deltas(loop: Loop, job_id: str) -> list[str]:
    return [piece["delta"] for piece in loop.runpod_api.streamed(job_id) if "delta" in piece]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Loop]:
    environment = {"MODELS_DIR": str(tiny_models), "CHAT_STREAMING": "1", "SFW_WORDS": "damn, New York"}
    with started(tmp_path_factory.mktemp("echo"), "tests.doubles.echo", **environment) as running:
        yield running


def test_texts_of_all_scripts_arrive_unchanged(loop: Loop) -> None:
    said = dict(zip((f"text-{number}" for number in itertools.count()), texts(200), strict=False))
    for job_id, text in said.items():
        loop.runpod_api.submit(job(job_id, text))
    for job_id, text in said.items():
        *_, payload = loop.runpod_api.result(job_id)["output"]
        assert payload["response"] == text
        assert "".join(deltas(loop, job_id)) == text
    assert max(len(deltas(loop, job_id)) for job_id in said) > 1


def test_slow_reader_gets_few_deltas_and_does_not_delay_generation(loop: Loop) -> None:
    loop.runpod_api.stream_delay = 1.0
    try:
        loop.runpod_api.submit(job("slow", "word " * 400))
        *_, payload = loop.runpod_api.result("slow")["output"]
    finally:
        loop.runpod_api.stream_delay = 0.0
    assert "".join(deltas(loop, "slow")) == payload["response"] == "word " * 400
    assert 2 <= len(deltas(loop, "slow")) <= 5
    last = [post.at for post in loop.runpod_api.posts if post.kind == "job-stream" and post.job_id == "slow"][-1]
    left = float((loop.worker.folder / CLOSED_LOG).read_text().split("\n")[-2].split()[0])
    assert left < last, "it was written to its end while the reader was still at an earlier piece"


def test_deltas_never_contain_masked_words(loop: Loop) -> None:
    loop.runpod_api.submit(job("masked", "Damn, in New York and in Scunthorpe: damned. " * 20, sfw_mode=True))
    *_, payload = loop.runpod_api.result("masked")["output"]
    assert payload["response"] == "****, in *** **** and in Scunthorpe: damned. " * 20
    assert "".join(deltas(loop, "masked")) == payload["response"]
    assert len(deltas(loop, "masked")) > 2


def test_interrupted_stream_yields_its_text_and_the_error(loop: Loop) -> None:
    loop.runpod_api.submit(job("broken", "some words " + FAIL_MARKER))
    assert loop.runpod_api.result("broken")["error"] == "The echo has failed. Send the job again."
    assert ("some words " + FAIL_MARKER).startswith("".join(deltas(loop, "broken")))
    assert deltas(loop, "broken") != []


def test_cancellation_during_a_delta_stops_generation(loop: Loop) -> None:
    """There the SDK forgets the generator, which goes on until somebody ends it."""
    loop.runpod_api.stream_delay = 1.0
    try:
        loop.runpod_api.submit(job("gone", "word " * 20_000))
        loop.runpod_api.wait_for(lambda: bool(deltas(loop, "gone")))
        loop.runpod_api.stop("gone")
        log = loop.worker.folder / CLOSED_LOG
        loop.runpod_api.wait_for(lambda: log.read_text().endswith("aborted\n"), seconds=20)
    finally:
        loop.runpod_api.stream_delay = 0.0
    assert loop.runpod_api.results("gone") == []


def test_without_streaming_updates_contain_the_text_so_far(tmp_path: Path, tiny_models: Path) -> None:
    with started(tmp_path, "tests.doubles.echo", MODELS_DIR=str(tiny_models)) as loop:
        loop.runpod_api.submit(job("watched", "Grüße 🦢 " * 100))
        payload = loop.runpod_api.result("watched")["output"]
        shown = [update["text"] for update in loop.runpod_api.progress("watched")]
    assert len(shown) >= 2
    for earlier, later in itertools.pairwise([*shown, payload["response"]]):
        assert later.startswith(earlier)
    assert shown[-1] == payload["response"] == "Grüße 🦢 " * 100
    assert loop.runpod_api.streamed("watched") == []


def test_without_streaming_an_openai_stream_is_rejected(tmp_path: Path, tiny_models: Path) -> None:
    with started(tmp_path, "tests.doubles.echo", MODELS_DIR=str(tiny_models)) as loop:
        body = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "Grüße"}]}
        for job_id, changes in (("whole", {}), ("streamed", {"stream": True})):
            form = {"openai_route": "/v1/chat/completions", "openai_input": body | changes}
            loop.runpod_api.submit({"id": job_id, "input": form})
        loop.runpod_api.submit({"id": "models", "input": {"openai_route": "/v1/models", "openai_input": None}})
        assert loop.runpod_api.result("whole")["output"]["choices"][0]["message"]["content"] == "Grüße"
        assert loop.runpod_api.result("models")["output"]["data"][0]["id"] == "qwen_instruct"
        error = json.loads(loop.runpod_api.result("streamed")["error"])["error"]
    assert (error["param"], error["type"]) == ("stream", "invalid_request_error")
    assert "CHAT_STREAMING=1" in error["message"]
