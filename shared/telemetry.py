"""One structured line per step with the job's id, and the seconds that each step took.

What others say is said without its text: libraries put prompts, URLs with their tokens and headers with their keys into errors and into
lines of their own. Above DEBUG an error is its type and where it was raised, and a library's line is who wrote it and where.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

# These write a line for each request, or for each header with the key that it holds.
_TALKATIVE = ("httpx", "httpcore", "hpack", "urllib3", "aiohttp", "stamina", "PIL")


def configure_logging(level: str) -> None:
    """Sends structured lines to standard output: JSON for machines, columns for a terminal. What others say loses its text.

    Args:
        level: The least level that is logged, as in `logging`.
    """
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_text,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.setLogRecordFactory(logging.LogRecord if level == "DEBUG" else _record_without_text)
    warnings.showwarning = _show_warning
    watch_errors()


def watch_errors() -> None:
    """Lets errors that nobody catches be logged by their type, in any thread. To be called again after what puts hooks of its own there."""
    sys.excepthook = lambda _kind, error, _trace: log_error("this process fails", error)
    threading.excepthook = lambda thrown: log_error("a thread has failed", thrown.exc_value)
    sys.unraisablehook = lambda thrown: log_error("an error had nowhere to go", thrown.exc_value)


def log_error(event: str, error: BaseException | None, level: str = "error", **facts: object) -> None:
    """Logs an error by its type and where it was raised; at DEBUG in full.

    Args:
        event: What has happened.
        error: Why.
        level: Of the line without the text.
        facts: What else is known, fit for a log.
    """
    getattr(logger(), level)(event, **facts, error_type=type(error).__name__, where=_where(error))
    logger().debug(f"{event}, in full", exc_info=error)


def _where(error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{frames[-1].name}:{frames[-1].lineno}" if frames else "nowhere"


def _without_text(_logger: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Above DEBUG, leaves the type of an error in place of its traceback, whoever has put it into a line."""
    if method != "debug" and (given := line.pop("exc_info", None)):
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        line["error_type"] = type(error).__name__
    return line


def _record_without_text(name: str, level: int, path: str, lineno: int, *rest: Any) -> logging.LogRecord:
    """A library's line. It is made so, and not only shown so, because libraries have handlers of their own."""
    _message, _arguments, thrown, *_ = rest
    error = f", {thrown[0].__name__}" if isinstance(thrown, tuple) and thrown[0] is not None else ""
    text = f"{name}: a line without its text ({PurePath(path).name}:{lineno}{error})"
    return logging.LogRecord(name, level, path, lineno, text, (), None)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object) -> None:
    logger().warning("a library warns", category=category.__name__, where=f"{PurePath(filename).name}:{lineno}")
    logger().debug("a library warns, in full", text=str(message))


def logger() -> structlog.stdlib.BoundLogger:
    """The logger. Whatever `job_context` binds is on each of its lines."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Puts the job's id on every line that is logged inside, in this task and in the threads that copy its context."""
    with bound_contextvars(job_id=job_id):
        yield


class StepTimer:
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
        """Seconds since the timer was made."""
        return time.perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per step, rounded to milliseconds."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
