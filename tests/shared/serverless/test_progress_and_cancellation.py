"""How far a job is, and how it is stopped."""

from __future__ import annotations

import time

from tests.doubles.jobs import sdxl_job
from tests.doubles.stub_worker import STEP_SECONDS
from tests.shared.serverless.conftest import Loop


def test_progress_is_ordered_throttled_and_precedes_the_result(loop: Loop) -> None:
    loop.runpod_api.submit(sdxl_job("progress", "slowly", steps=50))
    loop.runpod_api.result("progress")
    posts = [post for post in loop.runpod_api.posts if post.job_id == "progress"]
    updates, last = posts[:-1], posts[-1]
    assert all(post.is_progress for post in updates)
    assert last.is_result
    steps = [update["step"] for update in loop.runpod_api.progress("progress")]
    assert steps == sorted(set(steps)), "ordered, none twice"
    assert steps[-1] == 50, "the last one is flushed"
    # 50 steps of 0.05 s at one update per 0.5 s: six or seven, and certainly not fifty
    assert 3 <= len(steps) <= 10
    time.sleep(1.0)
    assert not [post for post in loop.runpod_api.posts if post.is_progress and post.at > last.at], "nothing follows the result"


def test_slow_delivery_keeps_progress_in_order(loop: Loop) -> None:
    loop.runpod_api.progress_delay = 0.8
    loop.runpod_api.submit(sdxl_job("slow-way", "slowly", steps=40))
    loop.runpod_api.result("slow-way")
    time.sleep(2 * loop.runpod_api.progress_delay)
    loop.runpod_api.progress_delay = 0.0
    *updates, last = [post for post in loop.runpod_api.posts if post.job_id == "slow-way"]
    assert last.is_result
    steps = [post.body["output"]["step"] for post in updates]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40


def test_cancelled_job_ends_within_one_step(loop: Loop) -> None:
    loop.runpod_api.submit(sdxl_job("stopped", "slowly", steps=50))
    loop.runpod_api.wait_for(lambda: bool(loop.runpod_api.progress("stopped")))
    loop.runpod_api.stop("stopped")
    loop.runpod_api.submit(sdxl_job("next"))
    assert loop.runpod_api.result("next")["output"]["status"] == "completed"
    stopped, following = loop.steps("stopped"), loop.steps("next")
    assert len(stopped) < 50
    assert max(stopped) < min(following), "they never share the GPU"
    assert loop.runpod_api.results("stopped") == [], "RunPod knows already"
    (callback,) = loop.callbacks("stopped")
    assert (callback["status"], callback["metadata"]["error_code"]) == ("failed", "CANCELLED")
    time.sleep(4 * STEP_SECONDS)
    assert loop.steps("stopped") == stopped, "no step is done after the end"


def test_worker_times_out_before_runpod_does(loop: Loop) -> None:
    job = sdxl_job("late", "slowly", steps=50) | {"policy": {"executionTimeout": 500}}
    loop.runpod_api.submit(job)
    output = loop.runpod_api.result("late")["output"]
    assert output["metadata"]["error_code"] == "JOB_TIMEOUT"
    assert len(loop.steps("late")) < 15
