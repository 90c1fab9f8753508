"""What a test has used: processor time, which does not depend on how busy the machine is, and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROCESSOR_SECONDS = 2.0
MEMORY = 500 * 10**6
"""What an input may cost before the GPU works."""


def processor_seconds_of_children() -> float:
    """Seconds of all child processes that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def within_budget(seconds: float = PROCESSOR_SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Asserts that the body uses no more than an input may cost, in this process and in children that have ended."""
    _reset_peak_memory()
    before, started = _memory("VmRSS"), time.process_time() + processor_seconds_of_children()
    yield
    used = time.process_time() + processor_seconds_of_children() - started
    assert used <= seconds, f"{used:.1f} s of processor time, and {seconds} s are allowed"
    grown = _memory("VmHWM") - before
    assert grown <= memory, f"{grown / 1e6:.0f} MB of memory, and {memory / 1e6:.0f} MB are allowed"


def _memory(line: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{line}:")[2].split()[0]) * 1024


def _reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")
