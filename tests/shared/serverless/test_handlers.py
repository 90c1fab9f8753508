"""Each real handler in the real SDK's loop: it completes, fails, reports progress, is stopped, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from tests.doubles.jobs import PROMPT_CANARY
from tests.doubles.schemas import payload_schema
from tests.shared.serverless.conftest import SECRET, Loop, started

Input = dict[str, Any]
INPUTS: dict[str, Input] = {
    "sdxl": {"type": "sdxl_image_fast", "config": {"resolution": "64x64", "steps": 10, "seed": 7}},
    "wan": {"type": "video_fast", "config": {"width": 64, "height": 64, "frames": 6, "fps": 8, "steps": 3, "seed": 7}},
    "chat": {"type": "chat", "max_tokens": 8, "temperature": 0},
}
# Long enough to be stopped on the way.
LONG: dict[str, Input] = {
    "sdxl": {"type": "sdxl_image_fast", "config": {"resolution": "512x512", "steps": 50, "seed": 7, "num_images": 3}},
    "wan": {"type": "video_fast", "config": {"width": 128, "height": 128, "frames": 83, "fps": 8, "steps": 50, "seed": 7}},
    "chat": {"type": "chat", "max_tokens": 1500, "temperature": 0},
}


class Handled:
    """A worker of one handler."""

    def __init__(self, handler: str, loop: Loop) -> None:
        self.handler = handler
        self.loop = loop

    def submit(self, job_id: str, fields: Input) -> None:
        words = {"messages": [{"role": "user", "content": PROMPT_CANARY}]} if self.handler == "chat" else {"prompt": PROMPT_CANARY}
        # Chat posts a callback only when asked.
        asked = {"callback_url": self.loop.receiver.url} if self.handler == "chat" else {}
        self.loop.runpod_api.submit({"id": job_id, "input": {"id": job_id, "user_id": "user-1", **words, **asked, **fields}})

    def result(self, job_id: str) -> Any:
        return self.loop.runpod_api.result(job_id)


@pytest.fixture(scope="module", params=list(INPUTS))
def handled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Handled]:
    handler: str = request.param
    environment = {"MODELS_DIR": str(tiny_models), "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "JOB_CONCURRENCY": "3"}
    with started(tmp_path_factory.mktemp(handler), f"handlers.{handler}.handler", **environment) as loop:
        yield Handled(handler, loop)


def test_completed_job_has_the_same_result_and_callback(handled: Handled) -> None:
    handled.submit("completes", INPUTS[handled.handler])
    body = handled.result("completes")
    assert body.keys() == {"output"}
    assert body["output"]["status"] == "completed"
    assert handled.loop.callbacks("completes") == [body["output"]]
    Draft202012Validator(payload_schema(handled.handler)).validate(body["output"])


def test_payload_describes_the_stored_assets(handled: Handled) -> None:
    handled.submit("made", INPUTS[handled.handler])
    output = handled.result("made")["output"]
    (asset,) = output["assets"]
    facts = asset["metadata"]
    if handled.handler == "sdxl":
        with Image.open(handled.loop.worker.output / asset["url"]) as picture:
            assert picture.size == (facts["width"], facts["height"]) == (64, 64)
            assert picture.format == "PNG"
    elif handled.handler == "wan":
        with av.open(str(handled.loop.worker.output / asset["url"])) as container:
            (stream,) = container.streams.video
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert len(frames) == facts["frames"] == 6
            assert frames[0].shape == (facts["height"], facts["width"], 3) == (64, 64, 3)
            assert stream.average_rate == facts["fps"] == 8
            assert stream.duration is not None
            assert stream.time_base is not None
            assert float(stream.duration * stream.time_base) == pytest.approx(asset["duration_seconds"]) == 6 / 8
            assert not np.array_equal(frames[0], frames[-1])
    else:
        assert output["response"] == asset["content"]
        assert facts["tokens_generated"] <= 8


def test_invalid_request_has_the_same_result_and_callback(handled: Handled) -> None:
    handled.submit("wrong", {"type": "nothing"})
    body = handled.result("wrong")
    assert body["error"] == body["output"]["error_message"]
    assert body["output"]["metadata"]["error_code"] == "VALIDATION_ERROR"
    assert handled.loop.callbacks("wrong") == [body["output"]]
    Draft202012Validator(payload_schema(handled.handler)).validate(body["output"])


def test_repeated_job_yields_identical_bytes(handled: Handled) -> None:
    contents = []
    for job_id in ("once", "again"):
        handled.submit(job_id, INPUTS[handled.handler])
        (asset,) = handled.result(job_id)["output"]["assets"]
        contents.append(asset["content"] if handled.handler == "chat" else (handled.loop.worker.output / asset["url"]).read_bytes())
    assert contents[0] == contents[1]


def test_cancelled_job_frees_the_gpu_and_posts_no_result(handled: Handled) -> None:
    runpod_api = handled.loop.runpod_api
    handled.submit("stopped", LONG[handled.handler])
    runpod_api.wait_for(lambda: bool(runpod_api.progress("stopped")))
    runpod_api.stop("stopped")
    handled.submit("next", INPUTS[handled.handler])
    assert handled.result("next")["output"]["status"] == "completed"
    assert runpod_api.results("stopped") == []
    steps = [update["step"] for update in runpod_api.progress("stopped")]
    assert steps == sorted(set(steps))
    assert steps[-1] < runpod_api.progress("stopped")[-1]["steps"]
    (callback,) = handled.loop.callbacks("stopped")
    assert callback["metadata"]["error_code"] == "CANCELLED"


def test_log_contains_no_secrets(handled: Handled) -> None:
    log = handled.loop.worker.log
    assert "gb_per_s" in log, "how fast each component was loaded is"
    for canary in (PROMPT_CANARY, SECRET, "canary-runpod-key", "Traceback"):
        assert canary not in log
