"""Under load, with cancellations and dying workers, every job of the gateway ends exactly once and in the order of the queue."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from playground.gateway.endpoint import Endpoint
from playground.gateway.jobs import Job, Status
from tests.doubles.gateway import RunningGateway
from tests.playground.gateway.test_jobs import paint

SECONDS = 240.0


def has_ended(ended: list[Job], count: int, _endpoint: Endpoint) -> bool:
    return len(ended) >= count


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("count", "workers"), [(60, 2), pytest.param(200, 4, marks=pytest.mark.nightly)])
def test_every_job_ends_once_although_jobs_are_cancelled_and_workers_killed(tmp_path: Path, count: int, workers: int) -> None:
    ended: list[Job] = []
    with RunningGateway(tmp_path, {"paint": "tests.doubles.stub_worker"}, workers=workers) as gateway:
        endpoint = gateway.endpoint("paint")
        endpoint.on_end.append(ended.append)
        ids = [gateway.request("POST", "paint/run", json={"input": paint(f"blue {number}")}).json()["id"] for number in range(count)]
        cancelled = ids[5::10]
        for job_id in cancelled:
            gateway.request("POST", f"paint/cancel/{job_id}")
        for threshold in range(20, count, 20):
            gateway.wait_for("paint", partial(has_ended, ended, threshold), SECONDS)
            gateway.kill_worker("paint", threshold // 20)
        gateway.wait_for("paint", partial(has_ended, ended, count), SECONDS)
        health = endpoint.health()["jobs"]
        jobs = [endpoint.job(job_id) for job_id in ids]

    assert sorted(job.id for job in ended) == sorted(ids), "each job ends once"
    assert {job.id for job in jobs if job.status is Status.CANCELLED} <= set(cancelled)
    assert {job.status for job in jobs} <= {Status.COMPLETED, Status.CANCELLED}
    assert (health["inQueue"], health["inProgress"], health["failed"]) == (0, 0, 0)
    taken = [job.taken for job in jobs if job.status is Status.COMPLETED and job.retries == 0]
    assert taken == sorted(taken, key=lambda moment: moment or 0.0), "first come, first served"
    assert all(job.output["assets"][0]["url"] == f"u/job-blue-{number}/0.png" for number, job in enumerate(jobs) if job.output)
