"""One structured line per step with the job's id, and the seconds that each step took."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

# These put URLs with their query strings, and so tokens, into lines at INFO.
_TALKATIVE = ("httpx", "httpcore", "hpack", "urllib3", "aiohttp", "stamina", "PIL")


def configure_logging(level: str) -> None:
    """Sends structured lines to standard output: JSON for machines, columns for a terminal.

    Args:
        level: The least level that is logged, as in `logging`.
    """
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def logger() -> structlog.stdlib.BoundLogger:
    """The logger. Whatever `job_context` binds is on each of its lines."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Puts the job's id on every line that is logged inside, in this task and in the threads that copy its context."""
    with bound_contextvars(job_id=job_id):
        yield


class Clock:
    """The seconds that each step of a job took, added up over the threads that work on it.

    Args:
        steps: Names that are reported even when they took no time, in their order.
    """

    def __init__(self, steps: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(steps, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds the time inside to the step `name`, also when it fails, and logs one line."""
        start = time.perf_counter()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            seconds = time.perf_counter() - start
            self.add(name, seconds)
            logger().info("step", step=name, outcome=outcome, ms=round(seconds * 1000, 1))

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to the step `name`."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per step, rounded to milliseconds."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
