"""What is said about growth: a leak is seen, and noise is not taken for one."""

from __future__ import annotations

import math

import numpy as np

from tests.chaos.soak.slopes import LEAST, WARM_UP, slope


def life(jobs: int, *, leak: float = 0.0, level: float = 500.0, seed: int = 0, rough: float = 0.5) -> list[float]:
    """Measurements as they are: noise that stays for some jobs and noise that does not, on a level, after a steep beginning."""
    chance, noise, held = np.random.default_rng(seed), 0.0, list[float]()
    for job in range(jobs):
        noise = 0.8 * noise + chance.normal(0.0, rough)
        held.append(level + noise + chance.normal(0.0, rough) + leak * job - 40.0 * math.exp(-job / 4))
    return held


def test_a_leak_is_seen_and_measured() -> None:
    found = slope([life(166, leak=0.05)], 20)
    assert found is not None
    assert found.low < 5.0 < found.high
    assert found.is_seen
    assert found.grows(1.0)


def test_a_slow_leak_is_seen_in_the_third_of_a_soak_that_is_one_workers() -> None:
    """Memory in use is ten times smoother than this."""
    found = [slope([life(500 // 3, leak=0.015, seed=seed, rough=0.1)]) for seed in range(100)]
    assert sum(each is not None and each.grows(1.0) for each in found) >= 90


def test_noise_is_not_taken_for_a_leak() -> None:
    found = [slope([life(166, seed=seed)], 20) for seed in range(500)]
    assert sum(each is not None and each.is_seen for each in found) <= 15


def test_one_thing_more_that_is_kept_is_no_growth() -> None:
    found = [slope([[17.0 + (job >= step) for job in range(87)]], 0) for step in range(1, 87)]
    assert [each for each in found if each is None or each.is_seen] == []


def test_a_leak_is_seen_beside_one_thing_more_that_is_kept() -> None:
    found = [slope([[17.0 + (job >= step) + 0.03 * job for job in range(87)]], 0) for step in range(1, 87)]
    assert [each for each in found if each is None or not each.grows(1.0)] == []


def test_a_thing_that_is_kept_now_and_then_is_growth() -> None:
    found = slope([[float(job // 8) for job in range(87)]], 0)
    assert found is not None
    assert found.grows(1.0)


def test_the_beginning_is_not_looked_at() -> None:
    steep = [100.0 * job for job in range(WARM_UP)]
    found = slope([[*steep, *life(120)[20:]]])
    assert found is not None
    assert not found.grows(1.0)


def test_a_process_that_begins_on_another_level_is_no_growth() -> None:
    found = slope([life(60, level=400.0), life(60, level=800.0, seed=1)], 20)
    assert found is not None
    assert not found.grows(1.0)


def test_a_leak_is_seen_over_several_processes() -> None:
    found = slope([life(80, leak=0.2, level=400.0), life(80, leak=0.2, level=200.0, seed=1)], 20)
    assert found is not None
    assert found.grows(1.0)


def test_growth_that_does_not_matter_is_said_and_is_no_fault() -> None:
    found = slope([[500.0 + 0.001 * job for job in range(100)]], 20)
    assert found is not None
    assert found.is_seen
    assert not found.grows(1.0)


def test_of_too_few_jobs_nothing_is_said() -> None:
    assert slope([life(WARM_UP + LEAST - 1)]) is None
    assert slope([]) is None
