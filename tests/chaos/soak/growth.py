"""Growth of a worker: what it holds after its last job, compared with what it held after 40 % of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from tests.chaos.soak.resources import ResourceSamples

REFERENCE = 0.4
WINDOW = 5
MAX_MEMORY = 2**20
MAX_OPEN_FILES = 6


@dataclass(frozen=True)
class Growth:
    reference_job: int
    last_job: int
    memory: int
    open_files: int
    max_memory: int = MAX_MEMORY
    max_open_files: int = MAX_OPEN_FILES

    @property
    def is_leak(self) -> bool:
        return self.memory > self.max_memory or self.open_files > self.max_open_files


def measure_growth(samples: ResourceSamples) -> Growth | None:
    count = len(samples.memory)
    reference = int(REFERENCE * count)
    if reference < WINDOW:
        return None
    memory, files = samples.memory, samples.open_files
    return Growth(
        reference,
        count,
        int(median(memory[-WINDOW:]) - median(memory[reference - WINDOW : reference])),
        int(median(files[-WINDOW:]) - median(files[reference - WINDOW : reference])),
    )
