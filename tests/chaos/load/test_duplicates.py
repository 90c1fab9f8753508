"""RunPod delivers a job more than once, at the same time: the same files, one webhook-id, and nothing left over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.load.around import PATIENCE, Around, Job, around
from tests.doubles.gateway import Gateway
from tests.doubles.jobs import sdxl_job


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    """A painting worker with four jobs in hand, for all tests of this module."""
    with around(tmp_path_factory.mktemp("load")) as running:
        yield running


@pytest.fixture(scope="module")
def another(load: Around) -> Iterator[Gateway]:
    with load.another_worker() as gateway:
        yield gateway


def outputs(gateway: Gateway, job_id: str, count: int) -> list[Any]:
    gateway.wait_for(lambda: len(gateway.results(job_id)) == count, PATIENCE, what=f"{count} runs of {job_id}")
    return [body["output"] for body in gateway.results(job_id)]


def stored_once(load: Around, job: Job, payloads: list[Any], alone: list[str]) -> None:
    """All payloads name the same files, which are those of a single run, whole, with nothing beside them."""
    assert {payload["status"] for payload in payloads} == {"completed"}
    assert all(load.files(payload) == alone for payload in payloads)
    folder = f"user-1/{job['id']}/"
    mine = {key: stored for key, stored in load.storage.objects.items() if key.startswith(folder)}
    assert set(mine) == {asset[name] for asset in payloads[0]["assets"] for name in ("url", "thumbnail_url")}
    assert all(stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest() for stored in mine.values())
    assert {message.headers["webhook-id"] for message in load.told(job["id"])} == {f"{job['id']}_completed"}
    assert not load.outbox.exists() or list(load.outbox.iterdir()) == []


@pytest.mark.parametrize("times", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_job_that_is_delivered_several_times_at_once_makes_one_set_of_files(load: Around, times: int) -> None:
    job = sdxl_job(f"times-{times}", num_images=3)
    alone = load.alone(job)
    load.uploads.longest = 0.3
    load.submit(*[job] * times)
    payloads = outputs(load.loop.gateway, job["id"], times)
    load.uploads.longest = 0.0
    stored_once(load, job, payloads, alone)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 4])
def test_two_workers_that_get_the_same_job_at_once_make_one_set_of_files(load: Around, another: Gateway, times: int) -> None:
    job = sdxl_job(f"both-{times}", num_images=3)
    alone = load.alone(job)
    load.uploads.longest = 0.3
    for _ in range(times):
        load.submit(job)
        another.submit(job)
    payloads = outputs(load.loop.gateway, job["id"], times) + outputs(another, job["id"], times)
    load.uploads.longest = 0.0
    stored_once(load, job, payloads, alone)


def test_the_same_id_of_another_user_ends_in_that_users_folder(load: Around) -> None:
    mine, theirs = sdxl_job("twins", seed=1), sdxl_job("twins", seed=2)
    theirs["input"]["user_id"] = "user-2"
    load.submit(mine, theirs)
    payloads = outputs(load.loop.gateway, "twins", 2)
    assert {payload["assets"][0]["url"]: payload["assets"][0]["generation_seed"] for payload in payloads} == {
        "user-1/twins/0.png": 1,
        "user-2/twins/0.png": 2,
    }
    assert load.storage.objects["user-1/twins/0.png"].content != load.storage.objects["user-2/twins/0.png"].content
    assert sorted(message.body for message in load.told("twins")) == sorted({message.body for message in load.told("twins")})


def test_a_job_that_is_stopped_is_stopped_in_all_its_deliveries(load: Around) -> None:
    job = sdxl_job("stopped", "slowly", steps=50)
    load.submit(job, job, job)
    load.loop.wait_for_step("stopped")
    gateway = load.loop.gateway
    gateway.wait_for(lambda: gateway.taken.count("stopped") == 3)
    gateway.stop("stopped")
    load.submit(sdxl_job("next"))
    assert load.output("next")["status"] == "completed"
    assert gateway.results("stopped") == []
    assert len(load.loop.steps("stopped")) < 50
    assert [message.payload["metadata"]["error_code"] for message in load.told("stopped")] == ["CANCELLED"] * 3
    assert {message.headers["webhook-id"] for message in load.told("stopped")} == {"stopped_failed"}


def test_a_delivery_that_fails_leaves_nothing_to_be_delivered_when_the_other_completes(load: Around) -> None:
    job = sdxl_job("half", num_images=1)
    alone = load.alone(job)
    load.uploads.refused_once = "half"
    load.submit(job)
    (failed,) = outputs(load.loop.gateway, "half", 1)
    assert failed["metadata"]["error_code"] == "UPLOAD_ERROR"
    load.submit(job)
    completed = outputs(load.loop.gateway, "half", 2)[1]
    assert load.files(completed) == alone
    assert list(load.outbox.iterdir()) == []
