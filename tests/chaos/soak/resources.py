"""Memory and open files of the workers of a soak test."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.chaos.fault_injection.worker_handle import WorkerHandle

ENVIRONMENT = {
    # Disable every cache in front of the allocator: pymalloc, the per-thread caches of glibc, and MKL's buffers per thread and matrix size.
    # They count freed memory as allocated, and hold more of it with every new mixture of jobs. So do the kernels that oneDNN and its
    # binding keep for each shape: for chat's packed layers up to 3 MB for each new length of a prompt, until 1,024 of them are kept.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "MKL_DISABLE_FAST_MM": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
    "LRU_CACHE_CAPACITY": "1",
    # One heap, so that every other mapping is known not to be one.
    "MALLOC_ARENA_MAX": "1",
    # As in the images.
    "MALLOC_MMAP_THRESHOLD_": str(2**17),
    "MALLOC_TRIM_THRESHOLD_": str(2**17),
}
"""Environment of a worker whose memory is measured."""


@dataclass
class ResourceSamples:
    """What the long-lived worker of a handler holds after each of its jobs. Starts anew when the worker is replaced.

    Attributes:
        memory: Allocated bytes of the heap plus all pages outside of it. The heap's own pages would include free memory between
            allocations, which comes and goes over hundreds of jobs.
        open_files: File descriptors, sockets included.
    """

    memory: list[int] = field(default_factory=list)
    open_files: list[int] = field(default_factory=list)
    process: int = 0

    def add(self, worker: WorkerHandle) -> None:
        """Measures a worker now."""
        if self.process != worker.process.process.pid:
            self.process = worker.process.process.pid
            self.memory.clear()
            self.open_files.clear()
        self.memory.append(worker.memory_in_use())
        self.open_files.append(worker.open_files)
