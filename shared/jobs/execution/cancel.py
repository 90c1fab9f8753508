"""The cancellation token of a job, which also carries the job's deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shared.errors import Cancelled, JobTimeout
from shared.network.deadline import Deadline


class CancelToken:
    """Cooperative cancellation: set once from outside, checked by the work between its steps.

    Args:
        deadline: Seconds from now after which `check` raises `JobTimeout`.
        clock: Seconds since some moment, never going backwards.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cancelled = threading.Event()
        self._seconds = deadline
        self._deadline = Deadline(deadline, clock)

    def cancel(self) -> None:
        """Asks the work to stop at its next step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self._cancelled.is_set()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0.0 once it has passed."""
        return self._deadline.remaining

    def check(self) -> None:
        """Returns if the work may go on.

        Raises:
            Cancelled: The job was cancelled.
            JobTimeout: The job's deadline has passed.
        """
        if self._cancelled.is_set():
            raise Cancelled("RunPod cancelled the job.")
        if self._deadline.expired:
            raise JobTimeout(f"The job took longer than {self._seconds:g} seconds. Ask for less work, or raise JOB_TIMEOUT.")
