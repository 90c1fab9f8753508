"""The moment by which something has to be over."""

from __future__ import annotations

import time


class Deadline:
    """The moment by which something has to be over.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left, 0.0 when it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def within(self, seconds: float) -> Deadline:
        """An earlier deadline: in `seconds`, but never after this one."""
        return Deadline(min(seconds, self.remaining))
