"""Progress updates, cancellation and the deadline, under RunPod's real SDK."""

from __future__ import annotations

import time

from tests.doubles.jobs import sdxl_job
from tests.doubles.stub_worker import STEP_SECONDS
from tests.shared.serverless.conftest import WorkerHarness


def test_progress_is_ordered_throttled_and_precedes_the_result(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("progress", "slowly", steps=50))
    harness.runpod_api.result("progress")
    posts = [post for post in harness.runpod_api.posts if post.job_id == "progress"]
    updates, last = posts[:-1], posts[-1]
    assert all(post.is_progress for post in updates)
    assert last.is_result
    steps = [update["step"] for update in harness.runpod_api.progress("progress")]
    assert steps == sorted(set(steps)), "ordered, without duplicates"
    assert steps[-1] == 50, "the last one is flushed"
    seconds = last.at - min(harness.steps("progress"))
    assert len(steps) <= 2 + seconds / 0.5, "one at once, one per interval, and the last one"
    time.sleep(1.0)
    assert not [post for post in harness.runpod_api.posts if post.is_progress and post.at > last.at], "nothing follows the result"


def test_slow_delivery_keeps_progress_in_order(harness: WorkerHarness) -> None:
    harness.runpod_api.progress_delay = 0.8
    harness.runpod_api.submit(sdxl_job("slow-way", "slowly", steps=40))
    harness.runpod_api.result("slow-way")
    time.sleep(2 * harness.runpod_api.progress_delay)
    harness.runpod_api.progress_delay = 0.0
    *updates, last = [post for post in harness.runpod_api.posts if post.job_id == "slow-way"]
    assert last.is_result
    steps = [post.body["output"]["step"] for post in updates]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40


def test_cancelled_job_ends_within_one_step(harness: WorkerHarness) -> None:
    harness.runpod_api.submit(sdxl_job("stopped", "endlessly"))
    harness.runpod_api.wait_for(lambda: bool(harness.runpod_api.progress("stopped")))
    harness.runpod_api.stop("stopped")
    harness.runpod_api.submit(sdxl_job("next"))
    assert harness.runpod_api.result("next")["output"]["status"] == "completed"
    stopped, following = harness.steps("stopped"), harness.steps("next")
    assert max(stopped) < min(following), "they never share the GPU"
    assert harness.runpod_api.results("stopped") == [], "RunPod expects none"
    callback = harness.wait_for_callback("stopped")
    assert (callback["status"], callback["metadata"]["error_code"]) == ("failed", "CANCELLED")
    time.sleep(4 * STEP_SECONDS)
    assert harness.steps("stopped") == stopped, "no step runs after the end"


def test_worker_times_out_before_runpod_does(harness: WorkerHarness) -> None:
    job = sdxl_job("late", "slowly", steps=50) | {"policy": {"executionTimeout": 500}}
    harness.runpod_api.submit(job)
    output = harness.runpod_api.result("late")["output"]
    assert output["metadata"]["error_code"] == "JOB_TIMEOUT"
    assert len(harness.steps("late")) < 15
