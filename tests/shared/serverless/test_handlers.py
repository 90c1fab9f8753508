"""Each handler under RunPod's real SDK: completed, failed and cancelled jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from tests.doubles.jobs import PROMPT_CANARY
from tests.doubles.schemas import payload_schema
from tests.shared.serverless.conftest import SECRET, WorkerHarness, start_worker

Input = dict[str, Any]
INPUTS: dict[str, Input] = {
    "sdxl": {"type": "sdxl_image_fast", "config": {"resolution": "64x64", "steps": 10, "seed": 7}},
    "wan": {"type": "video_fast", "config": {"width": 64, "height": 64, "frames": 6, "fps": 8, "steps": 3, "seed": 7}},
    "chat": {"type": "chat", "max_tokens": 8, "temperature": 0},
}
# Long enough to be cancelled while they run.
LONG: dict[str, Input] = {
    "sdxl": {"type": "sdxl_image_fast", "config": {"resolution": "512x512", "steps": 50, "seed": 7, "num_images": 3}},
    "wan": {"type": "video_fast", "config": {"width": 128, "height": 128, "frames": 83, "fps": 8, "steps": 50, "seed": 7}},
    "chat": {"type": "chat", "max_tokens": 1500, "temperature": 0, "repetition_penalty": 0.5},
}


class HandlerHarness:
    """A worker of one handler."""

    def __init__(self, handler: str, harness: WorkerHarness) -> None:
        self.handler = handler
        self.harness = harness

    def submit(self, job_id: str, fields: Input) -> None:
        words = {"messages": [{"role": "user", "content": PROMPT_CANARY}]} if self.handler == "chat" else {"prompt": PROMPT_CANARY}
        # Chat sends a callback only to a `callback_url`.
        callback = {"callback_url": self.harness.receiver.url} if self.handler == "chat" else {}
        self.harness.runpod_api.submit({"id": job_id, "input": {"id": job_id, "user_id": "user-1", **words, **callback, **fields}})

    def result(self, job_id: str) -> Any:
        return self.harness.runpod_api.result(job_id)


@pytest.fixture(scope="module", params=list(INPUTS))
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[HandlerHarness]:
    handler: str = request.param
    environment = {"MODELS_DIR": str(tiny_models), "CALLBACK_ALLOWED_HOSTS": "127.0.0.1", "JOB_CONCURRENCY": "3"}
    with start_worker(tmp_path_factory.mktemp(handler), f"handlers.{handler}.handler", **environment) as harness:
        yield HandlerHarness(handler, harness)


def test_completed_job_has_the_same_result_and_callback(worker: HandlerHarness) -> None:
    worker.submit("completes", INPUTS[worker.handler])
    body = worker.result("completes")
    assert body.keys() == {"output"}
    assert body["output"]["status"] == "completed"
    assert worker.harness.callbacks("completes") == [body["output"]]
    Draft202012Validator(payload_schema(worker.handler)).validate(body["output"])


def test_payload_describes_the_stored_assets(worker: HandlerHarness) -> None:
    worker.submit("made", INPUTS[worker.handler])
    output = worker.result("made")["output"]
    (asset,) = output["assets"]
    facts = asset["metadata"]
    if worker.handler == "sdxl":
        with Image.open(worker.harness.worker.output / asset["url"]) as image:
            assert image.size == (facts["width"], facts["height"]) == (64, 64)
            assert image.format == "PNG"
    elif worker.handler == "wan":
        clip = worker.harness.worker.output / asset["url"]
        frames, described = iio.imread(clip, plugin="pyav"), iio.immeta(clip, plugin="pyav")
        assert len(frames) == facts["frames"] == 6
        assert frames[0].shape == (facts["height"], facts["width"], 3) == (64, 64, 3)
        assert described["fps"] == facts["fps"] == 8
        assert described["duration"] == pytest.approx(asset["duration_seconds"]) == 6 / 8
        assert not np.array_equal(frames[0], frames[-1])
    else:
        assert output["response"] == asset["content"]
        assert facts["tokens_generated"] <= 8


def test_invalid_request_has_the_same_result_and_callback(worker: HandlerHarness) -> None:
    worker.submit("wrong", {"type": "nothing"})
    body = worker.result("wrong")
    assert body["error"] == body["output"]["error_message"]
    assert body["output"]["metadata"]["error_code"] == "VALIDATION_ERROR"
    assert worker.harness.callbacks("wrong") == [body["output"]]
    Draft202012Validator(payload_schema(worker.handler)).validate(body["output"])


def test_repeated_job_yields_identical_bytes(worker: HandlerHarness) -> None:
    contents = []
    for job_id in ("once", "again"):
        worker.submit(job_id, INPUTS[worker.handler])
        (asset,) = worker.result(job_id)["output"]["assets"]
        contents.append(asset["content"] if worker.handler == "chat" else (worker.harness.worker.output / asset["url"]).read_bytes())
    assert contents[0] == contents[1]


def test_cancelled_job_frees_the_gpu_and_posts_no_result(worker: HandlerHarness) -> None:
    runpod_api = worker.harness.runpod_api
    stopped: list[str] = []

    def stop_at_once(job_id: str) -> None:
        if job_id == "stopped" and not stopped:
            stopped.append(job_id)
            runpod_api.stop(job_id)

    runpod_api.on_progress_sent = stop_at_once
    worker.submit("stopped", LONG[worker.handler])
    runpod_api.wait_for(lambda: bool(runpod_api.progress("stopped")))
    worker.submit("next", INPUTS[worker.handler])
    assert worker.result("next")["output"]["status"] == "completed"
    assert runpod_api.results("stopped") == []
    steps = [update["step"] for update in runpod_api.progress("stopped")]
    assert steps == sorted(set(steps))
    assert steps[-1] < runpod_api.progress("stopped")[-1]["steps"]
    callback = worker.harness.wait_for_callback("stopped")
    assert callback["metadata"]["error_code"] == "CANCELLED"


def test_log_contains_no_secrets(worker: HandlerHarness) -> None:
    log = worker.harness.worker.log
    assert "gb_per_s" in log, "the log reports the load throughput"
    for canary in (PROMPT_CANARY, SECRET, "canary-runpod-key", "Traceback"):
        assert canary not in log
