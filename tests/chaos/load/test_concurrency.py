"""Several jobs in flight: the GPU runs one at a time, and no job waits for the uploads or the progress updates of another."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.load.harness import TIMEOUT, LoadHarness, start_load_harness
from tests.doubles.jobs import sdxl_job


def assert_completed(harness: LoadHarness, *job_ids: str) -> None:
    for job_id in job_ids:
        assert harness.output(job_id)["status"] == "completed"


def test_blocked_uploads_of_other_jobs_do_not_delay_a_later_job(harness: LoadHarness) -> None:
    blocked = ("blocked-0", "blocked-1", "blocked-2")
    harness.uploads.hold(*blocked)
    harness.submit(*(sdxl_job(job_id, num_images=6) for job_id in blocked))
    for job_id in blocked:
        harness.uploads.wait_for(job_id)
    harness.submit(sdxl_job("later"))
    assert_completed(harness, "later")
    assert not any(harness.runpod_api.results(job_id) for job_id in blocked)
    harness.uploads.release()
    assert_completed(harness, *blocked)


def test_back_pressure_while_uploads_are_blocked(harness: LoadHarness) -> None:
    runpod_api = harness.runpod_api
    jobs = [f"held-{number}" for number in range(9)]
    harness.uploads.hold(*jobs)
    harness.submit(*(sdxl_job(job_id, num_images=3) for job_id in jobs))
    for job_id in jobs[:4]:
        harness.uploads.wait_for(job_id)
    harness.uploads.release("held-2")
    assert_completed(harness, "held-2")
    harness.uploads.wait_for("held-4")
    assert [harness.steps(job_id) for job_id in jobs[5:]] == [[]] * 4
    assert set(runpod_api.taken) & set(jobs) == set(jobs[:5])
    harness.uploads.release()
    assert_completed(harness, *jobs)
    assert runpod_api.max_in_flight <= 4


def test_the_gpu_runs_one_job_at_a_time(harness: LoadHarness) -> None:
    jobs = [f"sequential-{number}" for number in range(8)]
    harness.uploads.max_delay = 0.3
    harness.submit(*(sdxl_job(job_id, num_images=1 + 2 * (number % 2)) for number, job_id in enumerate(jobs)))
    assert_completed(harness, *jobs)
    harness.uploads.max_delay = 0.0
    spans = sorted((min(harness.steps(job_id)), max(harness.steps(job_id))) for job_id in jobs)
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


def test_a_slow_progress_update_of_one_job_does_not_delay_another(harness: LoadHarness) -> None:
    arrived, released = threading.Event(), threading.Event()

    def on_progress_sent(job_id: str) -> None:
        if job_id == "slow-update":
            arrived.set()
            released.wait(TIMEOUT)

    harness.runpod_api.on_progress_sent = on_progress_sent
    harness.submit(sdxl_job("slow-update"))
    assert arrived.wait(TIMEOUT)
    harness.submit(sdxl_job("other"))
    # Less than a worker waits for an update that does not arrive.
    assert harness.runpod_api.result("other", seconds=5)["output"]["status"] == "completed"
    assert harness.runpod_api.results("slow-update") == []
    released.set()
    assert_completed(harness, "slow-update")


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 2, 8, 64])
def test_all_jobs_complete_within_the_configured_concurrency(tmp_path: Path, concurrency: int) -> None:
    jobs = [f"job-{number}" for number in range(12)]
    with start_load_harness(tmp_path, JOB_CONCURRENCY=str(concurrency)) as harness:
        harness.uploads.max_delay = 0.3
        harness.submit(*(sdxl_job(job_id, seed=number) for number, job_id in enumerate(jobs)))
        outputs = [harness.output(job_id) for job_id in jobs]
        assert [output["assets"][0]["generation_seed"] for output in outputs] == list(range(12))
        assert harness.runpod_api.max_in_flight <= concurrency
