"""Graceful shutdown of a worker with several jobs in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.load.harness import start_load_harness
from tests.doubles.jobs import sdxl_job


@pytest.mark.slow
def test_all_jobs_in_flight_complete_and_no_other_is_taken(tmp_path: Path) -> None:
    jobs = [f"job-{number}" for number in range(4)]
    with start_load_harness(tmp_path) as harness:
        harness.uploads.hold(*jobs)
        harness.submit(*(sdxl_job(job_id, num_images=3) for job_id in jobs[:3]), sdxl_job(jobs[3], "slowly", steps=50))
        for job_id in jobs[:3]:
            harness.uploads.wait_for(job_id)
        harness.wait_for_step(jobs[3])
        harness.submit(*(sdxl_job(f"queued-{number}") for number in range(4)))
        harness.worker.terminate()
        harness.uploads.release()
        for job_id in jobs:
            output = harness.output(job_id)
            assert output["status"] == "completed"
            assert [message.payload for message in harness.received_callbacks(job_id)] == [output]
        assert harness.worker.wait() == 0
        assert harness.runpod_api.taken == jobs
        assert not harness.outbox.exists() or list(harness.outbox.iterdir()) == []
