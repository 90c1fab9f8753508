"""Tries of one request: how often, how far apart, and never past the deadline."""

from __future__ import annotations

from collections.abc import Iterator

import stamina

from shared.network.deadline import Deadline


class RequestFailed(Exception):
    """One try failed. Its text is the reason, fit for a log line: stamina writes it when it tries again.

    Args:
        reason: One sentence, or the end of one.
        again: Whether another try may succeed.
        wait: Seconds that the other side has asked to wait.
        status: The status that it answered with.
    """

    def __init__(self, reason: str, *, retryable: bool, wait: float = 0.0, status: int | None = None) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.wait = wait
        self.status = status


def retrying(deadline: Deadline, *, attempts: int, initial_backoff: float, max_backoff: float) -> Iterator[stamina.Attempt]:
    """Yields the tries of one request, with growing pauses and jitter between them.

    The last `RequestFailed` is let through: when it says so, after so many attempts, or when the next pause would not end before the deadline.

    Args:
        deadline: For all of them together.
        attempts: At most so many.
        initial_backoff: Seconds after the first one; each pause is twice the one before.
        max_backoff: Seconds. A pause that the other side asks for may be longer.
    """
    pause = 0.0

    def again(error: Exception) -> bool | float:
        if not isinstance(error, RequestFailed) or not error.retryable or max(pause, error.wait) >= deadline.remaining:
            return False
        return error.wait if error.wait > pause else True

    for attempt in stamina.retry_context(
        on=again, attempts=attempts, timeout=None, wait_initial=initial_backoff, wait_max=max_backoff, wait_jitter=initial_backoff
    ):
        pause = attempt.next_wait
        yield attempt
