"""Whether something grows with the jobs: a line through what was measured after each, and how sure one can be of it.

Ordinary least squares, with errors that allow for noise that stays for some jobs (W. Newey and K. West, *A Simple, Positive Semi-definite,
Heteroskedasticity and Autocorrelation Consistent Covariance Matrix*, Econometrica 55, 1987): memory that an allocator has just taken is
still there one job later, and errors for independent noise would see a slope in that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP = 20
"""Jobs of a worker that are not looked at: meanwhile it takes its threads and buffers, imports what it needs late, and keeps them."""

LEAST = 20
"""Jobs after that, below which nothing is said of a slope."""

_SURE = 1.96  # of the normal distribution: 95 %


@dataclass(frozen=True)
class Slope:
    """By how much something grows in 100 jobs: the best guess, and between what it lies with 95 % certainty."""

    per_100: float
    low: float
    high: float

    @property
    def is_seen(self) -> bool:
        """Whether it can be told from zero."""
        return self.low > 0.0 or self.high < 0.0

    def grows(self, material: float) -> bool:
        """Whether it is certainly above zero, and large enough to matter."""
        return self.low > 0.0 and self.per_100 > material


def slope(lives: Sequence[Sequence[float]]) -> Slope | None:
    """The slope that all lives of a worker have in common. None: there is too little to say it.

    Args:
        lives: For each process, what was measured after each of its jobs, the first of them included.
    """
    warm = [np.asarray(life[WARM_UP:], float) for life in lives if len(life) > WARM_UP + 1]
    count = sum(map(len, warm))
    if count < LEAST:
        return None
    # Each process begins at a level of its own.
    jobs = [np.arange(len(life)) - (len(life) - 1) / 2 for life in warm]
    spread = sum(float(x @ x) for x in jobs)
    best = sum(float(x @ life) for x, life in zip(jobs, warm, strict=True)) / spread
    noise = sum(_noise(x * (life - life.mean() - best * x)) for x, life in zip(jobs, warm, strict=True))
    error = math.sqrt(max(noise, 0.0) * count / (count - len(warm) - 1)) / spread
    return Slope(100 * best, 100 * (best - _SURE * error), 100 * (best + _SURE * error))


def _noise(moments: NDArray[np.float64]) -> float:
    """The long-run variance of the moments, by Bartlett's kernel; as many lags as is usual for their number."""
    lags = min(int(4 * (len(moments) / 100) ** (2 / 9)) + 1, len(moments) - 1)
    total = float(moments @ moments)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(moments[lag:] @ moments[:-lag])
    return total
