"""Workers that are killed at moments of chance."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.chaos.faults.world import sdxl
from tests.chaos.killed.conftest import Mortals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seed", range(8))
def test_a_worker_with_a_model_is_killed_at_some_moment(mortals: Mortals, seed: int) -> None:
    chance = random.Random(seed)
    handler = chance.choice(("sdxl", "wan", "chat"))
    die_at_some_moment(mortals, mortals.job(handler, f"{handler}-{seed}", several=True), handler, chance.uniform(0.0, 1.0))


@pytest.mark.parametrize("seed", range(8, 20))
def test_a_worker_without_a_model_is_killed_at_some_moment(mortals: Mortals, seed: int) -> None:
    job = sdxl(f"paint-{seed}", prompt="paint heron", num_images=3)
    die_at_some_moment(mortals, job, "paint", random.Random(seed).uniform(0.0, 1.0))


def die_at_some_moment(mortals: Mortals, job: dict[str, Any], handler: str, seconds: float) -> None:
    """Kills so many seconds after the job was there; it may be over by then."""
    victim = mortals.living(handler)
    victim.gateway.submit(job)
    time.sleep(seconds)
    victim.process.kill()
    mortals.died(victim)
    mortals.names_only_what_is_whole(job["id"])
    mortals.is_done_again(job, handler)
