"""The token that a running step looks at: was the job stopped, has its deadline passed?"""

from __future__ import annotations

import threading
import time

from shared.errors import Cancelled, JobTimeout


class CancelToken:
    """Set once from outside, looked at between the steps of the work.

    Args:
        deadline: Seconds from now after which `check` raises `JobTimeout`.
    """

    def __init__(self, deadline: float) -> None:
        self._stopped = threading.Event()
        self._seconds = deadline
        self._ends = time.monotonic() + deadline

    def cancel(self) -> None:
        """Asks the work to stop at its next step."""
        self._stopped.set()

    @property
    def cancelled(self) -> bool:
        """Whether the job was stopped."""
        return self._stopped.is_set()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, 0.0 when it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def check(self) -> None:
        """Returns when the work may go on.

        Raises:
            Cancelled: The job was stopped.
            JobTimeout: Its deadline has passed.
        """
        if self._stopped.is_set():
            raise Cancelled("RunPod stopped the job.")
        if time.monotonic() > self._ends:
            raise JobTimeout(f"The job took longer than {self._seconds:g} seconds. Ask for less work, or raise JOB_TIMEOUT.")
