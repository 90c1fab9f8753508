"""The queue of an endpoint follows RunPod's rules for order, cancellation, retries, time limits and retention."""

from __future__ import annotations

import pytest

from playground.gateway.endpoint import Endpoint, JobNotFound
from playground.gateway.jobs import Job, Status
from playground.gateway.limits import MAX_ATTEMPTS, RUN_RETENTION, RUNSYNC_RETENTION, TTL


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def endpoint(clock: Clock) -> Endpoint:
    return Endpoint("sdxl", clock)


def submit(endpoint: Endpoint, count: int = 1, **policy: int) -> list[Job]:
    return [endpoint.submit({"input": {"number": number}, "policy": policy}) for number in range(count)]


def test_jobs_are_handed_out_in_the_order_of_their_submission(endpoint: Endpoint) -> None:
    jobs = submit(endpoint, 3)
    taken = endpoint.take("a", 2) + endpoint.take("b", 2)
    assert [each["id"] for each in taken] == [job.id for job in jobs]
    assert [job.worker for job in jobs] == ["a", "a", "b"]


def test_a_worker_receives_the_submitted_body_and_the_id(endpoint: Endpoint) -> None:
    body = {"input": {"prompt": "x"}, "webhook": "https://example.com", "policy": {"ttl": 20_000}, "s3Config": {"bucketName": "b"}}
    job = endpoint.submit(body)
    assert endpoint.take("a", 1) == [body | {"id": job.id}]


def test_times_are_counted_from_submission_to_take_and_from_take_to_result(endpoint: Endpoint, clock: Clock) -> None:
    (job,) = submit(endpoint)
    clock.now += 1.5
    endpoint.take("a", 1)
    clock.now += 2.25
    endpoint.finish(job.id, "a", {"output": {"x": 1}})
    assert job.describe() == {
        **{"id": job.id, "status": "COMPLETED", "delayTime": 1500, "executionTime": 2250},
        **{"output": {"x": 1}, "workerId": "a"},
    }


def test_progress_is_the_output_until_the_result(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.update(job.id, "a", {"step": 3})
    assert job.describe()["output"] == {"step": 3}
    endpoint.finish(job.id, "a", {"output": "done"})
    endpoint.update(job.id, "a", {"step": 4})
    assert job.describe()["output"] == "done"


def test_an_error_fails_the_job_and_keeps_its_output(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.finish(job.id, "a", {"error": "no memory", "output": {"status": "failed"}})
    assert (job.status, job.error, job.output) == (Status.FAILED, "no memory", {"status": "failed"})


def test_an_error_that_is_not_a_string_completes_the_job_without_output(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.finish(job.id, "a", {"error": {"message": "no memory"}, "output": "ignored"})
    assert (job.status, job.output) == (Status.COMPLETED, None)


def test_a_cancelled_job_in_the_queue_is_handed_to_nobody(endpoint: Endpoint) -> None:
    first, second = submit(endpoint, 2)
    endpoint.cancel(first)
    assert [each["id"] for each in endpoint.take("a", 2)] == [second.id]
    assert first.status is Status.CANCELLED


def test_only_the_worker_of_a_cancelled_job_is_told_to_stop_and_only_once(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.cancel(job)
    assert not endpoint.has_stops("b")
    assert endpoint.take_stops("a") == [job.id]
    assert endpoint.take_stops("a") == []


def test_what_still_arrives_for_a_cancelled_job_is_dropped(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.cancel(job)
    endpoint.finish(job.id, "a", {"output": "too late"})
    endpoint.add_chunk(job.id, "a", "too late")
    assert (job.status, job.output, job.chunks) == (Status.CANCELLED, None, [])


def test_an_ended_job_cannot_be_cancelled(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.finish(job.id, "a", {"output": "done"})
    endpoint.cancel(job)
    assert job.status is Status.COMPLETED


def test_jobs_of_a_worker_that_ends_return_to_the_front_of_the_queue_in_their_order(endpoint: Endpoint) -> None:
    first, second, third = submit(endpoint, 3)
    endpoint.take("a", 2)
    endpoint.worker_ended("a")
    assert endpoint.queue == [first, second, third]
    assert (first.retries, third.retries) == (1, 0)


def test_a_job_fails_once_several_workers_have_ended_over_it(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    for number in range(MAX_ATTEMPTS):
        endpoint.take(f"worker{number}", 1)
        endpoint.worker_ended(f"worker{number}")
    assert job.status is Status.FAILED
    assert job.error == f"{MAX_ATTEMPTS} workers ended before they had completed this job."


def test_the_result_of_an_earlier_worker_is_dropped_once_the_job_was_taken_again(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.worker_ended("a")
    endpoint.take("b", 1)
    endpoint.finish(job.id, "a", {"output": "old"})
    assert job.status is Status.IN_PROGRESS


def test_a_failed_job_can_be_retried_under_its_id_without_its_old_output(endpoint: Endpoint) -> None:
    (job,) = submit(endpoint)
    endpoint.take("a", 1)
    endpoint.finish(job.id, "a", {"error": "no memory", "output": "partial"})
    assert endpoint.retry(job)
    assert job.describe() == {"id": job.id, "status": "IN_QUEUE", "retries": 1}
    assert not endpoint.retry(job)


def test_purging_cancels_what_waits_and_leaves_what_runs(endpoint: Endpoint) -> None:
    running, *waiting = submit(endpoint, 3)
    endpoint.take("a", 1)
    assert endpoint.purge() == 2
    assert running.status is Status.IN_PROGRESS
    assert {job.status for job in waiting} == {Status.CANCELLED}


def test_a_job_that_exceeds_its_execution_timeout_is_stopped(endpoint: Endpoint, clock: Clock) -> None:
    (job,) = submit(endpoint, executionTimeout=5000)
    clock.now += 100
    endpoint.take("a", 1)
    statuses = []
    for seconds in (4.9, 0.2):
        clock.now += seconds
        endpoint.expire()
        statuses.append(job.status)
    assert statuses == [Status.IN_PROGRESS, Status.TIMED_OUT]
    assert endpoint.take_stops("a") == [job.id]


@pytest.mark.parametrize("taken", [True, False])
def test_a_job_is_gone_when_its_time_to_live_is_over_whatever_its_state(endpoint: Endpoint, clock: Clock, taken: bool) -> None:
    (job,) = submit(endpoint, ttl=10_000)
    if taken:
        endpoint.take("a", 1)
    clock.now += 10
    with pytest.raises(JobNotFound):
        endpoint.job(job.id)
    assert endpoint.queue == []
    assert endpoint.has_stops("a") == taken


@pytest.mark.parametrize(("sync", "seconds"), [(False, RUN_RETENTION), (True, RUNSYNC_RETENTION)])
def test_results_are_kept_for_the_documented_time(endpoint: Endpoint, clock: Clock, sync: bool, seconds: float) -> None:
    assert seconds < TTL
    job = endpoint.submit({"input": {}}, sync=sync)
    endpoint.take("a", 1)
    endpoint.finish(job.id, "a", {"output": 1})
    clock.now += seconds - 1
    assert endpoint.job(job.id) is job
    clock.now += 1
    with pytest.raises(JobNotFound):
        endpoint.job(job.id)


def test_health_counts_jobs_and_workers_by_state(endpoint: Endpoint) -> None:
    for worker in ("a", "b", "c"):
        endpoint.worker_started(worker)
    endpoint.worker_seen("a")
    endpoint.worker_seen("b")
    _running, waiting, *_ = submit(endpoint, 3)
    endpoint.take("a", 1)
    endpoint.cancel(waiting)
    assert endpoint.health() == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 1, "inQueue": 1, "retried": 0},
        "workers": {"idle": 1, "running": 1, "initializing": 1, "ready": 2, "throttled": 0, "unhealthy": 0},
    }
