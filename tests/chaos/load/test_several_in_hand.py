"""Several jobs in hand: the GPU does one at a time, and nobody waits for what another waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.load.around import PATIENCE, Around, around
from tests.doubles.jobs import sdxl_job


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    """A painting worker with four jobs in hand, for all tests of this module."""
    with around(tmp_path_factory.mktemp("load")) as running:
        yield running


def completed(load: Around, *job_ids: str) -> None:
    for job_id in job_ids:
        assert load.output(job_id)["status"] == "completed"


def test_stuck_uploads_of_all_others_do_not_hold_back_a_job_that_came_later(load: Around) -> None:
    stuck = ("stuck-0", "stuck-1", "stuck-2")
    load.uploads.hold(*stuck)
    load.submit(*(sdxl_job(job_id, num_images=6) for job_id in stuck))
    for job_id in stuck:
        load.uploads.wait_for(job_id)
    load.submit(sdxl_job("later"))
    completed(load, "later")
    assert not any(load.loop.gateway.results(job_id) for job_id in stuck)
    load.uploads.let_go()
    completed(load, *stuck)


def test_while_uploads_are_stuck_no_more_is_taken_than_the_worker_may_have_in_hand(load: Around) -> None:
    gateway = load.loop.gateway
    jobs = [f"held-{number}" for number in range(9)]
    load.uploads.hold(*jobs)
    load.submit(*(sdxl_job(job_id, num_images=3) for job_id in jobs))
    for job_id in jobs[:4]:
        load.uploads.wait_for(job_id)
    load.uploads.let_go("held-2")
    completed(load, "held-2")
    load.uploads.wait_for("held-4")
    assert [load.loop.steps(job_id) for job_id in jobs[5:]] == [[]] * 4
    assert set(gateway.taken) & set(jobs) == set(jobs[:5])
    load.uploads.let_go()
    completed(load, *jobs)
    assert gateway.most_in_hand <= 4


def test_pictures_are_made_for_one_job_after_the_other_and_never_for_two_at_once(load: Around) -> None:
    jobs = [f"row-{number}" for number in range(8)]
    load.uploads.longest = 0.3
    load.submit(*(sdxl_job(job_id, num_images=1 + 2 * (number % 2)) for number, job_id in enumerate(jobs)))
    completed(load, *jobs)
    load.uploads.longest = 0.0
    spans = sorted((min(load.loop.steps(job_id)), max(load.loop.steps(job_id))) for job_id in jobs)
    assert all(end < begin for (_, end), (begin, _) in pairwise(spans))


def test_progress_of_one_job_that_is_long_on_its_way_holds_back_no_other(load: Around) -> None:
    arrived, released = threading.Event(), threading.Event()

    def on_the_way(job_id: str) -> None:
        if job_id == "long-way":
            arrived.set()
            released.wait(PATIENCE)

    load.loop.gateway.on_the_way = on_the_way
    load.submit(sdxl_job("long-way"))
    assert arrived.wait(PATIENCE)
    load.submit(sdxl_job("short-way"))
    # Less than a worker waits for an update that does not arrive.
    assert load.loop.gateway.result("short-way", seconds=5)["output"]["status"] == "completed"
    assert load.loop.gateway.results("long-way") == []
    released.set()
    completed(load, "long-way")


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 2, 8, 64])
def test_all_jobs_end_and_no_more_are_in_hand_than_the_operator_says(tmp_path: Path, concurrency: int) -> None:
    jobs = [f"job-{number}" for number in range(12)]
    with around(tmp_path, JOB_CONCURRENCY=str(concurrency)) as load:
        load.uploads.longest = 0.3
        load.submit(*(sdxl_job(job_id, seed=number) for number, job_id in enumerate(jobs)))
        outputs = [load.output(job_id) for job_id in jobs]
        assert [output["assets"][0]["generation_seed"] for output in outputs] == list(range(12))
        assert load.loop.gateway.most_in_hand <= concurrency
