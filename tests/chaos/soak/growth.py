"""Growth of a worker: memory in use and open files after its last job, compared with those after 40 % of its jobs.

In a soak test of 500 jobs each handler has about 167, so that growth is measured over 100 of them. After the warm-up, memory in use
drifts by less than 0.1 MiB in 100 jobs, and a rare first use (an import, a buffer that is kept) adds up to 0.8 MiB once: the bound of 1
MiB plus 5 KiB per job allows for both. A leak of 20 KiB per job adds 2 MiB in 100 jobs, where the bound is 1.5 MiB. Open files do not
change at all in most runs; the bound of 5 allows for a few pooled connections, and one leaked file in ten jobs exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tests.chaos.soak.resources import ResourceSamples

WARM_UP = 20
"""Clean jobs of each handler at once, before one job with each fault. Neither counts nor is measured."""

LONG = 300
"""Number of jobs of a soak test from which the warm-up is worth its time."""

REFERENCE = 0.4
"""Fraction of the jobs before the growth is measured: the worker starts its threads and fills its caches in them."""

MAX_BYTES_PER_JOB = 5 * 2**10
MAX_FIRST_USE_BYTES = 2**20
"""Allocated once, when something is used for the first time."""
MAX_FIRST_USE_BYTES_COLD = 8 * 2**20
"""The same without a warm-up, in which the first uses of a short run take 3 MiB in all."""
MAX_OPEN_FILES = 5

_WINDOW = 5
"""Number of samples whose median counts: one job may leave something for the next."""


@dataclass(frozen=True)
class Growth:
    """What a worker has grown by.

    Attributes:
        first_job: Number of the job that is the reference.
        last_job: Number of the last job.
        memory: Bytes.
        open_files: File descriptors.
        max_memory: Bytes beyond which it is a leak.
    """

    first_job: int
    last_job: int
    memory: int
    open_files: int
    max_memory: int

    @property
    def is_leak(self) -> bool:
        """Whether a bound is exceeded."""
        return self.memory > self.max_memory or self.open_files > MAX_OPEN_FILES


def measure_growth(samples: ResourceSamples, *, warm: bool) -> Growth | None:
    """Returns the growth of a worker, or None if it has run too few jobs.

    Args:
        samples: One per job.
        warm: Whether a warm-up preceded the first sample.
    """
    last = len(samples.memory)
    first = int(REFERENCE * last)
    if first < _WINDOW:
        return None
    allowance = MAX_FIRST_USE_BYTES if warm else MAX_FIRST_USE_BYTES_COLD
    max_memory = allowance + MAX_BYTES_PER_JOB * (last - first)
    return Growth(first, last, _growth(samples.memory, first), _growth(samples.open_files, first), max_memory)


def _growth(values: list[int], first: int) -> int:
    return int(median(values[-_WINDOW:]) - median(values[first - _WINDOW : first]))
