"""Retry policies, and the attempts that `retrying` yields."""

import contextlib
import time
from collections.abc import Iterator

import pytest
import stamina

from shared.network import REFERENCE_RETRIES, STORAGE_RETRIES, WEBHOOK_RETRIES, Deadline, RequestFailed, RetryPolicy, retrying

FAST = RetryPolicy(attempts=4, initial_backoff=0.01, max_backoff=0.02)


@pytest.fixture(autouse=True)
def _real_backoff() -> Iterator[None]:
    with stamina.set_testing(False):
        yield


def attempts_of(*failures: RequestFailed, deadline: float = 60.0, policy: RetryPolicy = FAST, attempts: int | None = None) -> int:
    """Returns how often a request was attempted whose first attempts fail like this."""
    remaining = list(failures)
    made = 0
    try:
        for attempt in retrying(Deadline(deadline), policy, attempts=attempts):
            with attempt:
                made = attempt.num
                if remaining:
                    raise remaining.pop(0)
    except RequestFailed:
        pass
    return made


@pytest.mark.parametrize("policy", [REFERENCE_RETRIES, WEBHOOK_RETRIES, STORAGE_RETRIES])
def test_every_policy_retries_server_errors_timeouts_and_rate_limits(policy: RetryPolicy) -> None:
    assert all(policy.retries_status(status) for status in (408, 425, 429, 500, 502, 503, 504, 544, 599))
    assert not any(policy.retries_status(status) for status in (200, 301, 304, 400, 401, 403, 404, 410, 413, 415, 422))


def test_only_storage_retries_conflicts_and_locks() -> None:
    assert [policy.retries_status(409) for policy in (REFERENCE_RETRIES, WEBHOOK_RETRIES, STORAGE_RETRIES)] == [False, False, True]
    assert [policy.retries_status(423) for policy in (REFERENCE_RETRIES, WEBHOOK_RETRIES, STORAGE_RETRIES)] == [False, False, True]


def test_request_is_retried_until_it_succeeds() -> None:
    assert attempts_of() == 1
    assert attempts_of(RequestFailed("no", retryable=True), RequestFailed("no", retryable=True)) == 3


def test_failure_that_is_not_retryable_is_final() -> None:
    assert attempts_of(RequestFailed("no", retryable=False)) == 1


def test_attempts_are_bounded_by_the_policy_or_by_the_caller() -> None:
    failures = [RequestFailed("no", retryable=True)] * 9
    assert attempts_of(*failures) == 4
    assert attempts_of(*failures, attempts=2) == 2


def test_there_is_no_retry_whose_backoff_would_exceed_the_deadline() -> None:
    slow = RetryPolicy(attempts=4, initial_backoff=300.0, max_backoff=600.0)
    started = time.monotonic()
    assert attempts_of(RequestFailed("no", retryable=True), deadline=60.0, policy=slow) == 1
    assert attempts_of(RequestFailed("no", retryable=True, wait=300.0), deadline=60.0) == 1
    assert time.monotonic() - started < 60, "it fails at once"


def test_a_backoff_that_would_exceed_the_deadline_is_shortened() -> None:
    """The backoff leaves too little for a second attempt; that is made earlier instead of not at all."""
    attempts: list[int] = []
    deadline = Deadline(0.09, lambda: 0.045 * len(attempts[1:]))
    with contextlib.suppress(RequestFailed):
        for attempt in retrying(deadline, RetryPolicy(attempts=None, initial_backoff=0.05, max_backoff=10)):
            with attempt:
                attempts.append(attempt.num)
                raise RequestFailed("no", retryable=True)
    assert attempts == [1, 2]


@pytest.mark.parametrize("policy", [WEBHOOK_RETRIES, STORAGE_RETRIES])
def test_storage_and_receivers_are_retried_until_the_deadline(policy: RetryPolicy) -> None:
    assert policy.attempts is None


def test_retry_after_is_waited_for_if_it_exceeds_the_backoff() -> None:
    started = time.monotonic()
    assert attempts_of(RequestFailed("no", retryable=True, wait=0.3)) == 2
    assert time.monotonic() - started >= 0.3
