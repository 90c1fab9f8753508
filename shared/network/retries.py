"""Retries of one request: exponential backoff with jitter, bounded by a deadline. The policy of each kind of peer is declared here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import stamina

from shared.network.deadline import Deadline

# Seconds that are kept for the last attempt before a deadline; a quarter of what is left where that is less.
_LAST_ATTEMPT = 2.0
_RETRYABLE_4XX = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When, how often and how fast a request is retried. Network errors and timeouts are always retryable.

    Attributes:
        attempts: Maximum number of attempts; None: until the deadline.
        initial_backoff: Seconds before the first retry; doubled for each further one. Also the maximum jitter.
        max_backoff: Maximum seconds before a retry. A `Retry-After` may be longer.
        retryable_4xx: The client errors that are retried, in addition to every 5xx. Any other status is final, redirects included.
    """

    attempts: int | None
    initial_backoff: float
    max_backoff: float
    retryable_4xx: frozenset[int] = _RETRYABLE_4XX

    def retries_status(self, status: int) -> bool:
        """Whether the same request may succeed after this response status."""
        return status >= 500 or status in self.retryable_4xx


REFERENCE_RETRIES: Final = RetryPolicy(attempts=3, initial_backoff=0.25, max_backoff=2.0)
"""Hosts of reference images: few attempts, because a user waits."""

WEBHOOK_RETRIES: Final = RetryPolicy(attempts=None, initial_backoff=0.5, max_backoff=15.0)
"""Receivers of callbacks. `Retry-After` is honoured."""

STORAGE_RETRIES: Final = RetryPolicy(attempts=None, initial_backoff=0.5, max_backoff=15.0, retryable_4xx=_RETRYABLE_4XX | {409, 423})
"""Supabase Storage, which also answers 409 Conflict and 423 Locked while another upload of the same object is in progress."""


class RequestFailed(Exception):
    """One attempt of a request failed. The text is safe to log: stamina logs it before a retry.

    Args:
        reason: A sentence, or the end of one.
        retryable: Whether another attempt may succeed.
        wait: Seconds from the response's `Retry-After`.
        status: The response's status.
    """

    def __init__(self, reason: str, *, retryable: bool, wait: float = 0.0, status: int | None = None) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.wait = wait
        self.status = status


def retrying(deadline: Deadline, policy: RetryPolicy, *, attempts: int | None = None) -> Iterator[stamina.Attempt]:
    """Yields the attempts of one request, separated by exponential backoff with jitter.

    The last `RequestFailed` propagates: if it is not retryable, after the last attempt, or at the end of the deadline. A backoff that would
    exceed the deadline is shortened, so that the last attempt is made just before it; a `Retry-After` is not.

    Args:
        deadline: For all attempts together.
        policy: The policy.
        attempts: Overrides the policy's number of attempts.
    """
    backoff = 0.0

    def retry_after(error: Exception) -> bool | float:
        if not isinstance(error, RequestFailed) or not error.retryable or error.wait >= deadline.remaining:
            return False
        if error.wait > backoff:
            return error.wait
        if backoff + policy.initial_backoff < deadline.remaining:
            return True
        last = deadline.remaining - max(policy.initial_backoff, min(_LAST_ATTEMPT, deadline.remaining / 4))
        return last if last > 0 else False

    for attempt in stamina.retry_context(
        on=retry_after,
        attempts=attempts or policy.attempts,
        timeout=None,
        wait_initial=policy.initial_backoff,
        wait_max=policy.max_backoff,
        wait_jitter=policy.initial_backoff,
    ):
        backoff = attempt.next_wait
        yield attempt
