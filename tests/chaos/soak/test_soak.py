"""The loop itself, with a worker that needs no model: what holds is said to hold, and a leak is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults.world import World, sdxl
from tests.chaos.soak.__main__ import ENVIRONMENT
from tests.chaos.soak.held import Held
from tests.chaos.soak.slopes import LEAST, MATERIAL, slope
from tests.chaos.soak.soak import Report, Soak

WARM_UP = 10  # a worker without a model is soon as it will be
ENOUGH = WARM_UP + 2 * LEAST  # one more connection that is kept weighs little


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "none").mkdir()
    around = World(tmp_path, tmp_path / "none", ENVIRONMENT)
    yield around
    around.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_keeps_what_it_should_give_back_is_seen(world: World) -> None:
    world.worker("paint")

    def leak(_report: Report) -> None:
        world.worker("paint").sabotage("denoiser", "leak")

    report = Soak(world, 1, handlers=("paint",), share=0.0).run(ENOUGH, leak)
    assert (report.failures, report.lost) == ({}, {})
    held = report.held["paint"]
    files = slope(held.files, WARM_UP)
    assert files is not None
    assert files.grows(MATERIAL["files"])
    assert 90 < files.per_100 < 110, "one for each job, and a connection or two that are kept"
    memory = slope([[size / 2**20 for size in life] for life in held.memory], WARM_UP)
    assert memory is not None
    assert memory.grows(MATERIAL["memory"])
    assert 95 < memory.per_100 < 105, "one MiB for each job"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_that_was_stored_and_is_no_more_is_lost(world: World) -> None:
    def forget(_report: Report) -> None:
        world.storage.objects.pop("user-1/soak-1/0.png", None)

    report = Soak(world, 1, handlers=("paint",), share=0.0).run(3, forget)
    assert report.lost == {"soak-1": "user-1/soak-1/0.png is not stored as it should be"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_first_jobs_of_a_worker_are_done_and_neither_counted_nor_measured(world: World) -> None:
    report = Soak(world, 1, handlers=("paint",), share=0.0).run(2, first=3)
    completed = [payload["job_id"] for payload in world.inbox.payloads if payload["status"] == "completed"]
    assert completed.count("first-paint-waiting") == 2, "refused, and delivered when the next worker started"
    rest = [job_id for job_id in completed if job_id != "first-paint-waiting"]
    assert rest == ["first-paint-0", "first-paint-1", "first-paint-2", "soak-0", "soak-1"]
    assert (report.count, report.failures, len(report.held["paint"].memory[0])) == (2, {}, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_that_is_free_in_a_heap_does_not_count(world: World) -> None:
    running, held = world.worker("paint"), Held()
    running.do(sdxl("before"))
    held.note(running)
    pages = running.memory("RssAnon")
    running.sabotage("denoiser", "hoard")
    running.do(sdxl("after"))
    assert running.memory("RssAnon") > pages + 12 * 2**20
    held.note(running)
    ((before, after),) = held.memory
    assert after < before + 4 * 2**20
