"""Leaks are told from noise and from first use."""

from __future__ import annotations

import random

import pytest

from tests.chaos.soak.growth import REFERENCE, measure_growth
from tests.chaos.soak.resources import ResourceSamples

JOBS = 500 // 3
"""Jobs of one handler in a soak test of the default length."""


def grows(*, bytes_per_job: float = 0.0, files_per_job: float = 0.0, jobs: int = JOBS, first_use: int = 0, seed: int = 0) -> bool:
    """Whether a worker that starts at 500 MB and 17 files is reported. Noise and one first use are as measured."""
    rng = random.Random(seed)
    first_use_job = rng.randrange(jobs)
    memory = [500_000_000 + bytes_per_job * job + rng.gauss(0, 30_000) + first_use * (job >= first_use_job) for job in range(jobs)]
    files = [17 + int(files_per_job * job) + rng.choice((0, 0, 1, 2)) for job in range(jobs)]
    growth = measure_growth(ResourceSamples([int(size) for size in memory], files), warm=True)
    assert growth is not None
    return growth.is_leak


@pytest.mark.parametrize("seed", range(100))
def test_a_leak_of_20_kilobytes_per_job_is_reported(seed: int) -> None:
    assert grows(bytes_per_job=20_000, seed=seed)


@pytest.mark.parametrize("jobs_per_file", [1, 3, 10])
def test_a_leak_of_one_file_in_a_few_jobs_is_reported(jobs_per_file: int) -> None:
    assert grows(files_per_job=1 / jobs_per_file)


@pytest.mark.parametrize("seed", range(100))
def test_noise_and_one_first_use_are_not_reported(seed: int) -> None:
    assert not grows(first_use=800_000, seed=seed)


def test_a_short_run_reports_a_leak_of_one_file_in_two_jobs() -> None:
    assert grows(files_per_job=0.5, jobs=20)


def test_without_a_warm_up_first_use_may_take_more() -> None:
    samples = ResourceSamples([100 * 2**20] * 10 + [106 * 2**20] * 10, [17] * 20)
    warm, cold = measure_growth(samples, warm=True), measure_growth(samples, warm=False)
    assert warm is not None
    assert warm.is_leak
    assert cold is not None
    assert not cold.is_leak


def test_growth_before_the_reference_is_not_measured() -> None:
    start = int(REFERENCE * JOBS) - 10
    rising = [2**20 * min(job, start) for job in range(JOBS)]
    growth = measure_growth(ResourceSamples(rising, [min(job, start) for job in range(JOBS)]), warm=True)
    assert growth is not None
    assert (growth.first_job, growth.last_job, growth.memory, growth.open_files) == (66, 166, 0, 0)


@pytest.mark.parametrize("jobs", [0, 12])
def test_too_few_jobs_give_no_result(jobs: int) -> None:
    assert measure_growth(ResourceSamples([100] * jobs, [17] * jobs), warm=True) is None
