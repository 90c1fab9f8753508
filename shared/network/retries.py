"""Tries of one request: how often, how far apart, and never past the deadline."""

from __future__ import annotations

from collections.abc import Iterator

import stamina

from shared.network.deadline import Deadline


class FailedTry(Exception):
    """One try failed. Its text is the reason, fit for a log line: stamina writes it when it tries again.

    Args:
        reason: One sentence, or the end of one.
        again: Whether another try may succeed.
        wait: Seconds that the other side has asked to wait.
        status: The status that it answered with.
    """

    def __init__(self, reason: str, *, again: bool, wait: float = 0.0, status: int | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait
        self.status = status


def tries(deadline: Deadline, *, attempts: int, first_pause: float, longest_pause: float) -> Iterator[stamina.Attempt]:
    """Yields the tries of one request, with growing pauses and jitter between them.

    The last `FailedTry` is let through: when it says so, after so many attempts, or when the next pause would not end before the deadline.

    Args:
        deadline: For all of them together.
        attempts: At most so many.
        first_pause: Seconds after the first one; each pause is twice the one before.
        longest_pause: Seconds. A pause that the other side asks for may be longer.
    """
    pause = 0.0

    def again(error: Exception) -> bool | float:
        if not isinstance(error, FailedTry) or not error.again or max(pause, error.wait) >= deadline.left:
            return False
        return error.wait if error.wait > pause else True

    for attempt in stamina.retry_context(
        on=again, attempts=attempts, timeout=None, wait_initial=first_pause, wait_max=longest_pause, wait_jitter=first_pause
    ):
        pause = attempt.next_wait
        yield attempt
