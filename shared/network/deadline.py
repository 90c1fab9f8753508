"""A deadline on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time by which an operation must end. Several calls can share one.

    Args:
        seconds: From now.
        clock: Seconds since some moment, never going backwards.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expires_at = clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left; 0.0 once the deadline has passed."""
        return max(0.0, self._expires_at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.remaining == 0.0

    def within(self, seconds: float) -> Deadline:
        """Returns a deadline in `seconds`, but never later than this one."""
        return Deadline(min(seconds, self.remaining), self._clock)
