"""What an input costs a worker and its child processes: processor time, and memory at its peak."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.fault_injection.worker_handle import WorkerHandle

MAX_PROCESSOR_SECONDS = 2.0
MAX_MEMORY = 500 * 10**6

_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of `/proc/PID/stat` behind the name: user and system time of the process, and of the children that it has waited for.
_TIMES = slice(11, 15)


class Meter:
    """Measures what a worker uses from its construction.

    Args:
        worker: The worker.
    """

    def __init__(self, worker: WorkerHandle) -> None:
        self._worker = worker
        worker.reset_peak_memory()
        self._memory = worker.memory()
        self._seconds = _seconds(worker.process.process.pid)

    @property
    def processor_seconds(self) -> float:
        """Processor time since then. Not that of processes that the kernel has ended at their own limit, which is as much."""
        return _seconds(self._worker.process.process.pid) - self._seconds

    @property
    def memory(self) -> int:
        """The bytes by which the worker has grown at its peak."""
        return self._worker.memory("VmHWM") - self._memory


def _seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has ended meanwhile
    own = sum(map(int, stat[_TIMES])) / _TICKS
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return own + sum(map(_seconds, map(int, children.split())))
