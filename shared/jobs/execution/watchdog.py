"""Work that never returns, and the end of a process that cannot go on.

Python cannot interrupt a thread that waits inside a driver. So nobody waits for it for ever: its job is answered without it, and the
process ends. There are two timers for that end. One is a thread. The other is the C library's own, for the case that the interpreter
itself does not move because what hangs holds its lock.
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

# The SDK posts a result at once, after two and after five seconds.
_POSTING_SECONDS = 10.0


async def run_with_deadline(work: Coroutine[Any, Any, T], token: CancelToken, *, grace: float) -> T:
    """Waits for a job's work until some time after its deadline, and no longer. When this is cancelled, so is the work.

    Args:
        work: It looks at the token between its steps, and so ends by itself when the deadline has passed, if it can.
        token: The job's.
        grace: Seconds that a step may take beyond the deadline.

    Raises:
        JobTimeout: The work has not ended and will not be waited for. It replaces the worker.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            done, _ = await asyncio.wait({task}, timeout=token.remaining + grace)
        except asyncio.CancelledError:
            task.cancel()
            continue
        if not done:
            raise JobTimeout("The job did not end by its deadline and does not answer; the worker is replaced.", replaces_worker=True)
    return task.result()


def end_process() -> None:
    """Ends this process with code 1, now, whatever its threads are doing."""
    for child in multiprocessing.active_children():  # the SDK's, which would go on telling RunPod that this worker lives
        child.kill()
    os._exit(1)


class GracefulShutdown:
    """Ends the process when it has to, as soon as all jobs in hand are answered, and by a timer even if they are not.

    Args:
        slack: Seconds after a job's deadline by which it must have been answered.
        end: Ends the process.
    """

    def __init__(self, slack: float, end: Callable[[], None] = end_process) -> None:
        self._slack = slack
        self._end = end
        self._changed = threading.Condition()
        self._deadlines: dict[object, float] = {}
        self._begun = False
        # The traceback that the timer writes is for nobody: lines of code are not for the log.
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives

    @contextmanager
    def track_job(self, seconds: float) -> Iterator[None]:
        """Counts a job as in hand while the body runs, and guards it by the C library's timer.

        Args:
            seconds: Until the job's deadline.
        """
        job = object()
        self._note(job, time.monotonic() + seconds + self._slack)
        try:
            yield
        finally:
            self._note(job, None)

    def start(self) -> None:
        """Lets the process end. Returns at once; to be called again does nothing."""
        with self._changed:
            if self._begun:
                return
            self._begun = True
            self._arm(time.monotonic() + self._slack)
        threading.Thread(target=self._leave, name="departure", daemon=True).start()

    def _leave(self) -> None:
        with self._changed:
            answered = self._changed.wait_for(lambda: not self._deadlines, timeout=self._slack)
        logger().warning("this worker ends", jobs_answered=answered)
        threading.Event().wait(_POSTING_SECONDS)
        self._end()

    def _note(self, job: object, deadline: float | None) -> None:
        with self._changed:
            if deadline is None:
                self._deadlines.pop(job, None)
            else:
                self._deadlines[job] = deadline
            if not self._begun:
                self._arm(min(self._deadlines.values(), default=None))
            self._changed.notify_all()

    def _arm(self, deadline: float | None) -> None:
        faulthandler.cancel_dump_traceback_later()
        if deadline is not None:
            faulthandler.dump_traceback_later(max(deadline - time.monotonic(), 1.0), exit=True, file=self._nowhere)
