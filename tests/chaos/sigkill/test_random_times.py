"""Workers are killed at random times of a job."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.chaos.fault_injection.harness import sdxl
from tests.chaos.sigkill.kill_harness import KillHarness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def durations() -> dict[str, float]:
    """Seconds that a job takes without a kill, by handler. Kill times are fractions of it, whatever the speed of the machine."""
    return {}


@pytest.mark.parametrize("seed", range(8))
def test_job_of_a_real_handler_completes_after_a_kill(harness: KillHarness, durations: dict[str, float], seed: int) -> None:
    chance = random.Random(seed)
    handler = chance.choice(("sdxl", "wan", "chat"))
    job = harness.make_job(handler, f"{handler}-{seed}", multiple_images=True)
    kill_at_fraction(harness, durations, job, handler, chance.uniform(0.0, 1.0))


@pytest.mark.parametrize("seed", range(8, 20))
def test_job_of_the_stub_completes_after_a_kill(harness: KillHarness, durations: dict[str, float], seed: int) -> None:
    job = sdxl(f"stub-{seed}", prompt="a heron", num_images=3)
    kill_at_fraction(harness, durations, job, "stub", random.Random(seed).uniform(0.0, 1.0))


def kill_at_fraction(harness: KillHarness, durations: dict[str, float], job: dict[str, Any], handler: str, fraction: float) -> None:
    """Kills a worker after a fraction of the duration of its job, which may have completed by then."""
    worker = harness.live_worker(handler)
    if handler not in durations:
        start = time.monotonic()
        worker.run_job({"id": f"{handler}-timed", "input": {**job["input"], "id": f"{handler}-timed"}})
        durations[handler] = time.monotonic() - start
    worker.runpod_api.submit(job)
    time.sleep(fraction * durations[handler])
    worker.process.kill()
    harness.wait_until_killed(worker)
    harness.assert_named_files_intact(job["id"])
    harness.assert_redelivered_job_completes(job, handler)
