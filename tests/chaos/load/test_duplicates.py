"""RunPod delivers a job more than once at the same time: the same files, one `webhook-id`, nothing left in the outbox."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.load.harness import TIMEOUT, Job, LoadHarness
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.jobs import sdxl_job, webhook_id
from tests.doubles.waiting import wait_until


@pytest.fixture(scope="module")
def second_runpod_api(harness: LoadHarness) -> Iterator[FakeRunPodAPI]:
    with harness.second_worker() as runpod_api:
        yield runpod_api


def outputs(runpod_api: FakeRunPodAPI, job_id: str, count: int) -> list[Any]:
    runpod_api.wait_for(lambda: len(runpod_api.results(job_id)) == count, TIMEOUT, what=f"{count} runs of {job_id}")
    return [body["output"] for body in runpod_api.results(job_id)]


def assert_one_set_of_files(harness: LoadHarness, job: Job, payloads: list[Any], expected: list[str]) -> None:
    """Asserts that all payloads name the same intact files, which equal those of a single run, and that nothing else is stored."""
    assert {payload["status"] for payload in payloads} == {"completed"}
    assert [harness.file_hashes(payload) for payload in payloads] == [expected] * len(payloads)
    folder = f"user-1/{job['id']}/"
    objects = {key: stored for key, stored in harness.storage.objects.items() if key.startswith(folder)}
    assert set(objects) == {asset[name] for asset in payloads[0]["assets"] for name in ("url", "thumbnail_url")}
    assert all(stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest() for stored in objects.values())
    assert {message.headers["webhook-id"] for message in harness.received_callbacks(job["id"])} == {webhook_id(job["id"], "completed")}
    assert not harness.outbox.exists() or list(harness.outbox.iterdir()) == []


@pytest.mark.parametrize("times", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_concurrent_deliveries_to_one_worker_make_one_set_of_files(harness: LoadHarness, times: int) -> None:
    job = sdxl_job(f"times-{times}", num_images=3)
    expected = harness.hashes_alone(job)
    harness.uploads.max_delay = 0.3
    harness.submit(*[job] * times)
    payloads = outputs(harness.runpod_api, job["id"], times)
    harness.uploads.max_delay = 0.0
    assert_one_set_of_files(harness, job, payloads, expected)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 4])
def test_concurrent_deliveries_to_two_workers_make_one_set_of_files(
    harness: LoadHarness, second_runpod_api: FakeRunPodAPI, times: int
) -> None:
    job = sdxl_job(f"both-{times}", num_images=3)
    expected = harness.hashes_alone(job)
    harness.uploads.max_delay = 0.3
    for _ in range(times):
        harness.submit(job)
        second_runpod_api.submit(job)
    payloads = outputs(harness.runpod_api, job["id"], times) + outputs(second_runpod_api, job["id"], times)
    harness.uploads.max_delay = 0.0
    assert_one_set_of_files(harness, job, payloads, expected)


def test_the_same_job_id_of_two_users_is_stored_in_two_folders(harness: LoadHarness) -> None:
    first, second = sdxl_job("twins", seed=1), sdxl_job("twins", seed=2)
    second["input"]["user_id"] = "user-2"
    harness.submit(first, second)
    payloads = outputs(harness.runpod_api, "twins", 2)
    assert {payload["assets"][0]["url"]: payload["assets"][0]["generation_seed"] for payload in payloads} == {
        "user-1/twins/0.png": 1,
        "user-2/twins/0.png": 2,
    }
    objects = harness.storage.objects
    assert objects["user-1/twins/0.png"].content != objects["user-2/twins/0.png"].content
    bodies = [message.body for message in harness.received_callbacks("twins")]
    assert sorted(bodies) == sorted(set(bodies))


def test_a_cancelled_job_is_cancelled_in_all_its_deliveries(harness: LoadHarness) -> None:
    job = sdxl_job("cancelled", "endlessly")
    harness.submit(job, job, job)
    harness.wait_for_step("cancelled")
    runpod_api = harness.runpod_api
    harness.wait_for_logged_step("cancelled", "validate", times=3)
    runpod_api.stop("cancelled")
    harness.submit(sdxl_job("next"))
    assert harness.output("next")["status"] == "completed"
    assert runpod_api.results("cancelled") == []
    wait_until(lambda: len(harness.received_callbacks("cancelled")) == 3, "its deliveries have not all called back")
    callbacks = harness.received_callbacks("cancelled")
    assert [message.payload["metadata"]["error_code"] for message in callbacks] == ["CANCELLED"] * 3
    assert {message.headers["webhook-id"] for message in callbacks} == {webhook_id("cancelled", "failed")}


def test_a_completed_delivery_clears_the_outbox_of_a_failed_one(harness: LoadHarness) -> None:
    job = sdxl_job("half", num_images=1)
    expected = harness.hashes_alone(job)
    harness.uploads.rejected_once = "half"
    harness.submit(job)
    (failed,) = outputs(harness.runpod_api, "half", 1)
    assert failed["metadata"]["error_code"] == "UPLOAD_ERROR"
    harness.submit(job)
    completed = outputs(harness.runpod_api, "half", 2)[1]
    assert harness.file_hashes(completed) == expected
    assert list(harness.outbox.iterdir()) == []
