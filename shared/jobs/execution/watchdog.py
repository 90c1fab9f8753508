"""The watchdog: a hard deadline for work that never returns, and the graceful shutdown of a process that cannot go on.

Python cannot interrupt a thread that blocks inside a driver. A job that hangs is therefore answered without its work, and the process
exits. Two timers enforce the exit: a Python thread, and the C library's timer for the case that the hanging code holds the GIL.
"""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from shared.errors import JobTimeout
from shared.jobs.execution.cancel import CancelToken
from shared.telemetry import logger

T = TypeVar("T")

# The SDK posts a result at once, and retries after two and after five seconds.
_POSTING_SECONDS = 10.0
# Seconds between two looks at whether they have been posted.
_POSTED_INTERVAL = 0.05


async def run_with_deadline(work: Coroutine[Any, Any, T], token: CancelToken, *, grace: float) -> T:
    """Awaits a job's work until `grace` seconds after its deadline, and no longer. Cancelling this cancels the work.

    Args:
        work: Checks the token between its steps, and so normally ends by itself at the deadline.
        token: The job's.
        grace: Seconds that a step may take beyond the deadline.

    Raises:
        JobTimeout: The work is still running and is abandoned; the worker is replaced.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            done, _ = await asyncio.wait({task}, timeout=token.remaining + grace)
        except asyncio.CancelledError:
            task.cancel()
            continue
        if not done:
            raise JobTimeout("The job did not end by its deadline and does not respond; the worker is replaced.", replaces_worker=True)
    return task.result()


def end_process() -> None:
    """Exits with code 1 at once, whatever the threads of this process are doing."""
    for child in multiprocessing.active_children():  # the SDK's heartbeat, which would keep reporting this worker as alive
        child.kill()
    os._exit(1)


class GracefulShutdown:
    """Exits once every in-flight job has been answered, or when a timer expires.

    Args:
        slack: Seconds after a job's deadline within which it must have been answered.
        end: Exits the process.
        all_posted: Returns whether all results have been posted. As soon as they are, the process exits: it might take another job.
    """

    def __init__(self, slack: float, end: Callable[[], None] = end_process, all_posted: Callable[[], bool] = lambda: False) -> None:
        self._slack = slack
        self._end = end
        self._all_posted = all_posted
        self._changed = threading.Condition()
        self._deadlines: dict[object, float] = {}
        self._started = False
        # The timer dumps tracebacks, and lines of code do not belong in the log. Open for as long as the process lives.
        self._devnull = open(os.devnull, "w")  # noqa: SIM115

    @contextmanager
    def track_job(self, seconds: float) -> Iterator[None]:
        """Counts a job as in flight while the body runs, guarded by the C library's timer.

        Args:
            seconds: Until the job's deadline.
        """
        job = object()
        self._set_deadline(job, time.monotonic() + seconds + self._slack)
        try:
            yield
        finally:
            self._set_deadline(job, None)

    def start(self) -> None:
        """Starts the shutdown and returns at once. Further calls have no effect."""
        with self._changed:
            if self._started:
                return
            self._started = True
            self._arm(time.monotonic() + self._slack)
        threading.Thread(target=self._exit_when_idle, name="shutdown", daemon=True).start()

    def _exit_when_idle(self) -> None:
        with self._changed:
            answered = self._changed.wait_for(lambda: not self._deadlines, timeout=self._slack)
        logger().warning("worker exits", jobs_answered=answered)
        deadline = time.monotonic() + _POSTING_SECONDS
        while not self._all_posted() and time.monotonic() < deadline:
            time.sleep(_POSTED_INTERVAL)
        self._end()

    def _set_deadline(self, job: object, deadline: float | None) -> None:
        with self._changed:
            if deadline is None:
                self._deadlines.pop(job, None)
            else:
                self._deadlines[job] = deadline
            if not self._started:
                self._arm(min(self._deadlines.values(), default=None))
            self._changed.notify_all()

    def _arm(self, deadline: float | None) -> None:
        faulthandler.cancel_dump_traceback_later()
        if deadline is not None:
            faulthandler.dump_traceback_later(max(deadline - time.monotonic(), 1.0), exit=True, file=self._devnull)
