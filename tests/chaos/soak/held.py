"""What workers hold after each of their jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.chaos.faults.running import Running

ENVIRONMENT = {
    # What is free is known as free: Python's own allocator, the C library for each thread, and MKL for each thread and each size of
    # matrices keep something of what was given back as if it were in use, and more of it with every new mixture of jobs.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "MKL_DISABLE_FAST_MM": "1",
    # One heap, so that all other mappings are known to be none.
    "MALLOC_ARENA_MAX": "1",
    # As the images have it.
    "MALLOC_MMAP_THRESHOLD_": str(2**17),
    "MALLOC_TRIM_THRESHOLD_": str(2**17),
}
"""How a worker is configured whose memory is measured."""


@dataclass
class Held:
    """What the workers of one handler held after each of their jobs; a list for each process.

    Attributes:
        memory: Bytes that are in use, to the byte within the heap. Pages are not: beside what is in use they have what is free between two
            things that are, and for hundreds of jobs a heap takes and gives back some of that.
        files: Open ones, sockets included.
    """

    memory: list[list[float]] = field(default_factory=list)
    files: list[list[float]] = field(default_factory=list)
    process: int = 0

    def note(self, running: Running) -> None:
        """Measures a worker now."""
        if self.process != running.process.process.pid:
            self.process = running.process.process.pid
            self.memory.append([])
            self.files.append([])
        self.memory[-1].append(running.memory_in_use())
        self.files[-1].append(running.files_open)
