"""Requests to a bucket, whatever the service: retries within a deadline, and failures as the errors of a job."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from shared.errors import UploadError
from shared.network import STORAGE_RETRIES, Deadline, RequestFailed, retrying
from shared.storage.bucket_policy import BucketPolicy

READ_TIMEOUT = 60.0
"""Seconds without a byte. Supabase's own timeout for its database is 30."""

_CHECK_SECONDS = 30.0
# Seconds for requests that a job waits for, although it could do without their answer.
_PROBE_SECONDS = 5.0
_QUERY_SECONDS = 10.0

Client = TypeVar("Client")
T = TypeVar("T")


class BucketRequests(Generic[Client]):
    """Executes requests to a bucket.

    Args:
        connect: Opens a client for one attempt within a deadline. Its context translates the service's errors into `RequestFailed`.
        policy: Records which uploads are refused.
        upload_deadline: Seconds for an upload. No other request takes longer.
    """

    def __init__(self, connect: Callable[[Deadline], AbstractContextManager[Client]], policy: BucketPolicy, upload_deadline: float) -> None:
        self._connect, self._policy, self._upload_deadline = connect, policy, upload_deadline

    def deadline(self, seconds: float = _CHECK_SECONDS) -> Deadline:
        """Returns a deadline for requests at the start."""
        return Deadline(min(seconds, self._upload_deadline))

    def call(self, request: Callable[[Client], T], deadline: Deadline, *, attempts: int | None = None) -> T:
        """Executes a request, with retries.

        Raises:
            RequestFailed: It has failed for good, or until the deadline.
        """
        for attempt in retrying(deadline, STORAGE_RETRIES, attempts=attempts):
            with attempt, self._connect(deadline) as client:
                return request(client)
        raise AssertionError("retrying() yields at least once and propagates the last error")

    def probe(self, request: Callable[[Client], T], *, tolerates_outage: bool = False) -> T | None:
        """Executes a request before the work of a job whose results are to be stored.

        Args:
            request: Shows whether the bucket accepts uploads.
            tolerates_outage: Whether a failure that may pass returns None at once. Otherwise the request is retried.

        Raises:
            UploadError: It has failed.
        """
        try:
            return self.call(request, self.deadline(_PROBE_SECONDS), attempts=1 if tolerates_outage else None)
        except RequestFailed as error:
            if error.retryable and tolerates_outage:
                return None
            raise UploadError(f"The result could not be stored: {error}. Nothing was generated.", retryable=error.retryable) from None

    def upload(self, request: Callable[[Client], T], seconds: float = math.inf) -> T:
        """Executes an upload within `seconds`, and records a refusal.

        Raises:
            UploadError: It has failed, or its outcome is unknown.
        """
        try:
            return self.call(request, self.deadline(seconds))
        except RequestFailed as error:
            self._policy.record(error.status)
            raise UploadError(f"The result could not be stored: {error}.", retryable=error.retryable) from None

    def query(self, request: Callable[[Client], T]) -> T:
        """Executes a request about stored objects.

        Raises:
            UploadError: It has failed.
        """
        try:
            return self.call(request, self.deadline(_QUERY_SECONDS), attempts=2)
        except RequestFailed as error:
            raise _query_failed(error) from None

    def find(self, request: Callable[[Client], T]) -> T | None:
        """Executes a request about one object, and returns None if there is no such object.

        Raises:
            UploadError: It has failed.
        """
        try:
            return self.call(request, self.deadline(_QUERY_SECONDS), attempts=2)
        except RequestFailed as error:
            if error.status == 404:
                return None
            raise _query_failed(error) from None


def _query_failed(error: RequestFailed) -> UploadError:
    return UploadError(f"Stored results could not be queried: {error}.", retryable=error.retryable)
