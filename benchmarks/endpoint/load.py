"""Arrivals of jobs."""

from __future__ import annotations

import random


def poisson_arrivals(jobs_per_hour: float, hours: float, *, burst: int = 1, seed: int = 0) -> list[float]:
    """Returns random arrivals that do not depend on each other, in seconds, ascending.

    Args:
        jobs_per_hour: Above 0; the mean.
        hours: The length of the load.
        burst: How many jobs arrive together.
        seed: The same seed gives the same arrivals.
    """
    draw, now, arrivals = random.Random(seed), 0.0, list[float]()
    while True:
        now += draw.expovariate(jobs_per_hour / burst / 3600)
        if now >= 3600 * hours:
            return arrivals
        arrivals += [now] * burst
