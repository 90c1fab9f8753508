"""The soak test itself, with a worker that needs no model: it reports success, leaks and lost jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fault_injection.harness import Harness, sdxl
from tests.chaos.soak.__main__ import ENVIRONMENT
from tests.chaos.soak.growth import measure_growth
from tests.chaos.soak.report import Report
from tests.chaos.soak.resources import ResourceSamples
from tests.chaos.soak.soak import Soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    (tmp_path / "none").mkdir()
    harness = Harness(tmp_path, tmp_path / "none", ENVIRONMENT)
    yield harness
    harness.close()


def test_a_leak_is_detected(harness: Harness) -> None:
    harness.worker("stub")

    def leak(_report: Report) -> None:
        harness.worker("stub").inject("denoiser", "leak")

    report = Soak(harness, 1, handlers=("stub",), fault_probability=0.0).run(50, leak)
    assert (report.failures, report.lost) == ({}, {})
    growth = measure_growth(report.resources["stub"], warm=report.warm)
    assert growth is not None
    assert growth.is_leak
    jobs = growth.last_job - growth.first_job
    assert 0.95 * jobs < growth.memory / 2**20 < 1.05 * jobs, "one MiB per job"
    assert 0.9 * jobs < growth.open_files < 1.1 * jobs, "one file per job, and a few pooled connections"


def test_a_job_whose_file_disappears_is_lost(harness: Harness) -> None:
    def delete_file(_report: Report) -> None:
        harness.storage.objects.pop("user-1/soak-1/0.png", None)

    report = Soak(harness, 1, handlers=("stub",), fault_probability=0.0).run(3, delete_file)
    assert report.lost == {"soak-1": "user-1/soak-1/0.png is not stored intact"}


def test_warm_up_jobs_are_neither_counted_nor_measured(harness: Harness) -> None:
    report = Soak(harness, 1, handlers=("stub",), fault_probability=0.0).run(2, warm_up=3)
    completed = [payload["job_id"] for payload in harness.receiver.payloads if payload["status"] == "completed"]
    assert completed.count("warm-up-stub-pending") == 2, "rejected, and delivered when the next worker started"
    others = [job_id for job_id in completed if job_id != "warm-up-stub-pending"]
    assert sorted(others[:3]) == ["warm-up-stub-0", "warm-up-stub-1", "warm-up-stub-2"]
    assert others[3:] == ["soak-0", "soak-1"]
    assert (report.count, report.failures, len(report.resources["stub"].memory)) == (2, {}, 2)


def test_free_memory_between_allocations_is_not_counted(harness: Harness) -> None:
    worker, samples = harness.worker("stub"), ResourceSamples()
    worker.run_job(sdxl("before"))
    samples.add(worker)
    pages = worker.memory("RssAnon")
    worker.inject("denoiser", "fragment")
    worker.run_job(sdxl("after"))
    assert worker.memory("RssAnon") > pages + 12 * 2**20
    samples.add(worker)
    before, after = samples.memory
    assert after < before + 4 * 2**20
