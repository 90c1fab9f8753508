"""A worker that is scaled down while it has its hands full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.load.around import around
from tests.doubles.jobs import sdxl_job


@pytest.mark.slow
def test_all_jobs_in_hand_are_ended_and_none_is_taken_any_more(tmp_path: Path) -> None:
    jobs = [f"job-{number}" for number in range(4)]
    with around(tmp_path) as load:
        gateway = load.loop.gateway
        load.uploads.hold(*jobs)
        load.submit(*(sdxl_job(job_id, num_images=3) for job_id in jobs[:3]), sdxl_job(jobs[3], "slowly", steps=50))
        for job_id in jobs[:3]:
            load.uploads.wait_for(job_id)
        load.loop.wait_for_step(jobs[3])
        load.submit(*(sdxl_job(f"waits-{number}") for number in range(4)))
        load.loop.worker.terminate()
        load.uploads.let_go()
        for job_id in jobs:
            output = load.output(job_id)
            assert output["status"] == "completed"
            assert [message.payload for message in load.told(job_id)] == [output]
        assert load.loop.worker.wait() == 0
        assert gateway.taken == jobs
        assert not load.outbox.exists() or list(load.outbox.iterdir()) == []
