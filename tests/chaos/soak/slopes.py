"""Whether something grows with the jobs: a line through what was measured after each, and how sure one can be of it.

Ordinary least squares, for as many independent measurements as there are (B. Santer et al., *Statistical significance of trends and trend
differences in layer-average atmospheric temperature time series*, Journal of Geophysical Research 105, 2000): memory that an allocator has
just taken is still there one job later, and who took that for a measurement of its own would see slopes everywhere. What stays has some
beside it that does not, so how long it stays is told by how its autocorrelation fades (an ARMA(1, 1) process: G. Box, G. Jenkins and
G. Reinsel, *Time Series Analysis*, 1994, section 3.4).

Where something stays for good, one more connection that is kept for the next job, hardly two measurements are independent, and a line
says next to nothing. The steps from one job to the next are, then (a random walk with a drift; the same book, chapter 4): one step is no
growth, and eight without one back are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FIRST = 200
"""Jobs of each handler that meet nothing and come before all others, all at once: threads are started when several come together. Then
come jobs with each kind of fault once: the first picture with a profile takes 0.3 MiB, the first lack of memory 1.2."""

WARM_UP = 80
"""Jobs of a worker after those that are not looked at: meanwhile it takes its threads and buffers, imports what it needs late, and keeps
them."""

LEAST = 20
"""Jobs after that, below which nothing is said of a slope."""

MATERIAL = {"memory": 1.0, "files": 1.0}
"""What growth per 100 jobs matters: MiB, and open files. A worker that never rests does a hundred thousand jobs of ten seconds in twelve
days. By then it would have grown by one GiB of the tens that a pod has, and would be near the 1024 files that a process may have open."""

# Of the normal distribution: 95 % for both intervals of all six slopes of a soak together, by Bonferroni's inequality.
_SURE = NormalDist().inv_cdf(1 - 0.05 / 2 / 12)

_FADES = 4
"""So many ratios of one autocorrelation to the one before it are averaged. Later ones are noise."""


@dataclass(frozen=True)
class Slope:
    """By how much something grows in 100 jobs: the best guess, and between what it lies with 95 % certainty, of six slopes together."""

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


def slope(lives: Sequence[Sequence[float]], warm_up: int = WARM_UP) -> Slope | None:
    """The slope that all lives of a worker have in common. None: there is too little to say it.

    Args:
        lives: For each process, what was measured after each of its jobs, the first of them included.
        warm_up: So many jobs of each are not looked at.
    """
    warm = [np.asarray(life[warm_up:], float) for life in lives if len(life) > warm_up + 1]
    if sum(map(len, warm)) < LEAST:
        return None
    # Both hold, with the certainty of `_SURE`, so the one that says more does.
    return min(_of_line(warm), _of_steps(warm), key=lambda found: found.high - found.low)


def _of_line(warm: Sequence[NDArray[np.float64]]) -> Slope:
    """As if noise faded: a line through all measurements."""
    count = sum(map(len, warm))
    # Each process begins at a level of its own.
    jobs = [np.arange(len(life)) - (len(life) - 1) / 2 for life in warm]
    spread = sum(float(x @ x) for x in jobs)
    best = sum(float(x @ life) for x, life in zip(jobs, warm, strict=True)) / spread
    rest = [life - life.mean() - best * x for x, life in zip(jobs, warm, strict=True)]
    noise = sum(float(each @ each) for each in rest) / count
    free = max(count / _repeats(rest) - len(warm) - 1, 1.0)
    sure = _sure(free) * math.sqrt(noise / free * count / spread)
    return _between(best, sure)


def _of_steps(warm: Sequence[NDArray[np.float64]]) -> Slope:
    """As if noise stayed for good: the mean of all steps from one job to the next."""
    steps = np.concatenate([np.diff(life) for life in warm])
    best = float(steps.mean())
    sure = _sure(len(steps) - 1) * float(steps.std(ddof=1)) / math.sqrt(len(steps))
    return _between(best, sure)


def _between(best: float, sure: float) -> Slope:
    """What grows by `best` in a job, give or take `sure`."""
    return Slope(100 * best, 100 * (best - sure), 100 * (best + sure))


def _sure(free: float) -> float:
    """The quantile of Student's distribution with so many degrees of freedom (M. Abramowitz and I. Stegun, *Handbook*, 26.7.5)."""
    z = _SURE
    return (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )


def _repeats(rests: Sequence[NDArray[np.float64]]) -> float:
    """How many measurements say together what one of independent ones would say. At least 1."""
    near = _autocorrelations(rests)
    if not near[:-1].any():
        return 1.0
    fades = float(near[1:] @ near[:-1]) / float(near[:-1] @ near[:-1])
    return 1 + 2 * float(near[0]) / (1 - min(max(fades, float(near[0])), 0.99))


def _autocorrelations(rests: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """How much of what no line explains is still there one job later, two jobs later and so on: (_FADES + 1,), from 0 to 0.99."""
    count, total = sum(map(len, rests)), sum(float(rest @ rest) for rest in rests)
    later = [sum(float(rest[jobs:] @ rest[: max(len(rest) - jobs, 0)]) for rest in rests) for jobs in range(1, _FADES + 2)]
    stays = np.array(later) / (total or 1.0)
    # A line follows its own noise, so what is left seems to stay for less long than it does (M. Kendall, *Note on Bias in the Estimation
    # of Autocorrelation*, Biometrika 41, 1954, for a line).
    return np.clip(stays + (2 + 4 * stays) / count, 0.0, 0.99)
