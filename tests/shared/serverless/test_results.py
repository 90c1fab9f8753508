"""Results and callbacks for every outcome of a job."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from tests.doubles.jobs import PROMPT_CANARY, sdxl_job
from tests.shared.serverless.conftest import SECRET, WorkerHarness


def test_callback_equals_the_result(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("completes", num_images=3))
    body = harness.runpod_api.result("completes")
    assert "error" not in body
    assert body["output"]["status"] == "completed"
    assert harness.callbacks("completes") == [body["output"]]


def test_reported_assets_are_stored(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("stores", num_images=3, resolution="96x64"))
    assets = harness.runpod_api.result("stores")["output"]["assets"]
    assert [asset["asset_index"] for asset in assets] == [0, 1, 2]
    for asset in assets:
        path = harness.worker.output / asset["url"]
        assert path.stat().st_size == asset["file_size_bytes"] == asset["metadata"]["file_size_bytes"]
        with Image.open(path) as image:
            assert image.size == (96, 64) == (asset["metadata"]["width"], asset["metadata"]["height"])
            color = np.random.default_rng(asset["generation_seed"]).integers(0, 256, 3, dtype=np.uint8)
            assert (np.asarray(image) == color).all()
        with Image.open(harness.worker.output / asset["thumbnail_url"]) as thumbnail:
            assert thumbnail.format == "WEBP"


def test_payload_is_stored_next_to_the_assets(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("keeps"))
    body = harness.runpod_api.result("keeps")
    assert json.loads((harness.worker.output / "user-1/keeps/callback.json").read_bytes()) == body["output"]


@pytest.mark.parametrize(
    ("verb", "code", "retryable"),
    [
        ("crash", "INTERNAL_ERROR", True),
        ("fill", "OOM_ERROR", True),
        ("hugely", "GENERATION_ERROR", False),
        ("infinitely", "INTERNAL_ERROR", True),
    ],
)
def test_failure_has_a_message_and_a_code(harness: WorkerHarness, verb: str, code: str, retryable: bool) -> None:
    harness.runpod_api.submit(sdxl_job(f"fails-{verb}", verb))
    body = harness.runpod_api.result(f"fails-{verb}")
    output = body["output"]
    assert output["status"] == "failed"
    assert output["assets"] == []
    assert (output["metadata"]["error_code"], output["metadata"]["retryable"]) == (code, retryable)
    assert body["error"] == output["error_message"]
    assert PROMPT_CANARY not in json.dumps(body)
    assert harness.callbacks(f"fails-{verb}") == [output]


def test_result_above_runpods_limit_fails_with_its_size(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("too-large", "hugely"))
    assert "9.0 MiB" in harness.runpod_api.result("too-large")["error"]


def test_invalid_request_fails_with_all_its_problems(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("wrong", steps=99, num_images=2))
    body = harness.runpod_api.result("wrong")
    assert {"config.steps", "config.num_images"} == {problem["field"] for problem in body["output"]["metadata"]["problems"]}
    assert "config.steps" in body["error"]
    assert "config.num_images" in body["error"]
    assert harness.callbacks("wrong") == [body["output"]]
    assert harness.steps("wrong") == []


def test_missing_model_fails_the_job_before_generation(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("lora", loras=[{"name": "pixels", "scale": 1.0}]))
    assert harness.runpod_api.result("lora")["output"]["metadata"]["error_code"] == "MODEL_UNAVAILABLE"
    assert harness.steps("lora") == []


@pytest.mark.parametrize("value", [None, [], "text", 7])
def test_input_that_is_not_an_object_fails_under_runpods_id(harness: WorkerHarness, value: object) -> None:
    name = f"input-{type(value).__name__}"
    harness.runpod_api.submit({"id": name, "input": value})
    output = harness.runpod_api.result(name)["output"]
    assert (output["job_id"], output["metadata"]["error_code"]) == (name, "VALIDATION_ERROR")


def test_duplicate_deliveries_are_idempotent(harness: WorkerHarness) -> None:
    job = sdxl_job("twice")
    hashes = []
    for count in (1, 2):
        harness.runpod_api.submit(job)
        harness.runpod_api.wait_for(lambda count=count: len(harness.runpod_api.results("twice")) == count)  # type: ignore[misc]
        hashes.append(hashlib.sha256((harness.worker.output / "user-1/twice/0.png").read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]
    ids = [message.headers["webhook-id"] for message in harness.receiver.messages if message.payload["job_id"] == "twice"]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_result_is_posted_again_after_a_500(harness: WorkerHarness) -> None:
    harness.runpod_api.result_statuses.append(500)
    harness.runpod_api.submit(sdxl_job("again"))
    assert harness.runpod_api.result("again")["output"]["status"] == "completed"
    assert [post.status for post in harness.runpod_api.posts if post.job_id == "again" and post.is_result] == [500, 200]


def test_log_contains_no_prompt_key_or_token(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("secret-ok"))
    harness.runpod_api.submit(sdxl_job("secret-crash", "crash"))
    harness.runpod_api.submit(sdxl_job("secret-wrong", steps=99))
    for job_id in ("secret-ok", "secret-crash", "secret-wrong"):
        harness.runpod_api.result(job_id)
    log = harness.worker.log
    assert "secret-crash" in log, "the log names the job"
    assert "RuntimeError" in log, "and the type of the error"
    assert "Handler output" not in log, "the SDK's DEBUG lines contain whole results"
    for canary in (PROMPT_CANARY, SECRET, "canary-runpod-key", "Traceback"):
        assert canary not in log
