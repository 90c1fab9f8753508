"""Structured logging with the job's id on every line, the timing of a job's steps, and its trace.

Messages of exceptions and libraries are redacted, because they may contain prompts, URLs with tokens and headers with keys. Above DEBUG, an
exception is logged by its type and location, and a library's line by its logger and location.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePath
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

from shared.trace_context import TraceContext

# Loggers that log every request, or even headers with keys.
_VERBOSE_LOGGERS = ("httpx", "httpcore", "hpack", "urllib3", "aiohttp", "stamina", "PIL", "boto3", "botocore")


def configure_logging(level: str) -> None:
    """Logs structured lines to standard output, as JSON or, on a terminal, in columns. Redacts the lines of libraries.

    Args:
        level: The minimum level, as in `logging`.
    """
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact_exception,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.setLogRecordFactory(logging.LogRecord if level == "DEBUG" else _redacted_record)
    warnings.showwarning = _show_warning
    install_exception_hooks()


def install_exception_hooks() -> None:
    """Logs uncaught exceptions of any thread by their type. Call again after libraries that install hooks of their own."""
    sys.excepthook = lambda _kind, error, _trace: log_error("uncaught exception", error)
    threading.excepthook = lambda thrown: log_error("uncaught exception in a thread", thrown.exc_value)
    sys.unraisablehook = lambda thrown: log_error("unraisable exception", thrown.exc_value)


def log_error(event: str, error: BaseException | None, level: str = "error", **facts: object) -> None:
    """Logs an exception by its type and location; at DEBUG in full.

    Args:
        event: The event.
        error: The exception.
        level: The level of the redacted line.
        facts: Further values that are safe to log.
    """
    getattr(logger(), level)(event, **facts, error_type=type(error).__name__, where=_where(error))
    logger().debug(f"{event}, in full", exc_info=error)


def _where(error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{frames[-1].name}:{frames[-1].lineno}" if frames else "nowhere"


def _redact_exception(_logger: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Above DEBUG, replaces the traceback in a line by the exception's type."""
    if method != "debug" and (given := line.pop("exc_info", None)):
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        line["error_type"] = type(error).__name__
    return line


def _redacted_record(name: str, level: int, path: str, lineno: int, *rest: Any) -> logging.LogRecord:
    """Creates a library's record without its message. Redacted at creation, because libraries have handlers of their own."""
    _message, _arguments, thrown, *_ = rest
    error = f", {thrown[0].__name__}" if isinstance(thrown, tuple) and thrown[0] is not None else ""
    text = f"{name}: message redacted ({PurePath(path).name}:{lineno}{error})"
    return logging.LogRecord(name, level, path, lineno, text, (), None)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object) -> None:
    logger().warning("library warning", category=category.__name__, where=f"{PurePath(filename).name}:{lineno}")
    logger().debug("library warning, in full", text=str(message))


def logger() -> structlog.stdlib.BoundLogger:
    """Returns the logger. Its lines include the values bound by `job_context`."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


@contextmanager
def job_context(job_id: str, trace: TraceContext | None = None) -> Iterator[None]:
    """Binds the job's id, and its trace's if it has one, to every line of this task, and of threads that copy its context."""
    with bound_contextvars(job_id=job_id, **({} if trace is None else {"trace_id": trace.trace_id})):
        yield


class StartTimeline:
    """The phases of a worker's start, from the creation of its process: `process`, `checks`, `sdk`, `load`, `worker`."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic() - _process_age()
        self._phases: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """Ends a phase, which began where the last one ended."""
        now = time.monotonic()
        self._phases[phase] = round((now - self._last) * 1000, 1)
        self._last = now

    def log(self) -> None:
        """Logs all phases in one line. They add up to the total."""
        logger().info(
            "worker ready",
            process_ms=self._phases["process"],
            checks_ms=self._phases["checks"],
            sdk_ms=self._phases["sdk"],
            load_ms=self._phases["load"],
            worker_ms=self._phases["worker"],
            total_ms=round((self._last - self._started) * 1000, 1),
        )


def _process_age() -> float:
    """Seconds since this process was created; 0 where the kernel does not tell."""
    try:
        # The fields after the name of the program, which may contain spaces; the 22nd of all is the start in ticks since boot (proc(5)).
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return max(age, 0.0)


class StepTimer:
    """Measures the seconds of each step of a job, summed over its threads.

    Args:
        steps: Steps that are always reported, in this order.
        record: Records the block of a step elsewhere, too, by its name.
    """

    def __init__(self, steps: Iterable[str] = (), record: Callable[[str], AbstractContextManager[object]] = nullcontext) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(steps, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block as a step, even if it fails, and logs one line."""
        start = time.perf_counter()
        outcome = "failed"
        try:
            with self._record(name):
                yield
            outcome = "done"
        finally:
            seconds = time.perf_counter() - start
            self.add(name, seconds)
            logger().info("step", step=name, outcome=outcome, ms=round(seconds * 1000, 1))

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a step."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds since construction."""
        return time.perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per step, rounded to milliseconds."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}


class JobTrace:
    """The trace of one job. This class records no spans: it hands on the caller's position in the trace unchanged.

    Args:
        context: From the request; None if it named none.
    """

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def stage(self, _name: str) -> AbstractContextManager[object]:
        """Records the block as a stage of the job: `validate`, `fetch`, `generate`, `encode`, `upload`, `callback`. Thread-safe."""
        return nullcontext()

    def end(self, outcome: str, error_code: str | None) -> None:
        """Records how the job has ended: `completed`, `failed` or `stopped`; and the code of its error, if it has one."""


class Tracer:
    """Starts the traces of jobs. This class exports nothing."""

    def start(self, context: TraceContext | None, _attributes: Mapping[str, str]) -> JobTrace:
        """Starts the trace of a job.

        Args:
            context: The caller's position in a trace; None if the request named none.
            _attributes: Values that are safe to export: ids and types, no prompt and no path.
        """
        return JobTrace(context)
