"""Storage in a Supabase bucket.

Three properties of the service determine this client. It puts the real status of an error into the body of a response that is always 400,
so the body is authoritative. It rejects uploads before reading them and keeps the connection open, on which the next request hangs, so
connections are not reused. And concurrent creations of one object all succeed, so creating would guard nothing: every upload overwrites,
which makes it idempotent and safe to retry when the response was lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from storage3 import SyncStorageClient
from storage3.exceptions import StorageApiError

from shared.credentials import auth_headers
from shared.errors import UploadError
from shared.media.images import IMAGE_TYPES
from shared.media.videos import VIDEO_MIME
from shared.network import STORAGE_RETRIES, Deadline, HostRefused, RequestFailed, guarded_client, retrying
from shared.settings import Settings, SettingsError
from shared.storage.protocol import StoredObject, checked_key, describe_object

# Longer than the service's own timeout for its database, which is 30 seconds.
_READ_TIMEOUT = 60.0
_CHECK_SECONDS = 30.0
_MIN_FILE_SIZE_LIMIT = 10 * 1024 * 1024

_CAUSES = {
    401: "the worker's key was rejected",
    403: "the worker's key was rejected",
    404: "the bucket does not exist",
    413: "the file is larger than the bucket allows",
    415: "the bucket does not allow this MIME type",
}

T = TypeVar("T")


class SupabaseStorage:
    """Stores objects in `STORAGE_BUCKET` of the project at `SUPABASE_URL`, with their SHA-256 in the user metadata.

    Args:
        settings: The project's URL and service key.

    Raises:
        SettingsError: One of them is missing.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.supabase_url is None or settings.supabase_key is None:
            raise SettingsError("Supabase storage requires both SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY. Set both.")
        self.keeps_callbacks = settings.store_callback
        self._url = f"{settings.supabase_url}/storage/v1/"
        self._key = settings.supabase_key
        self._bucket = settings.storage_bucket
        self._deadline = settings.upload_deadline
        self._tls = httpx.create_ssl_context(trust_env=False)

    def check(self) -> None:
        """Queries the bucket: checks the URL, the key, that the bucket exists, and that it accepts the worker's files.

        Raises:
            SettingsError: Says what to do.
        """
        try:
            bucket = self._call(lambda api: api.get_bucket(self._bucket), Deadline(min(_CHECK_SECONDS, self._deadline)))
        except RequestFailed as error:
            raise SettingsError(f"Results cannot be stored: {error}. {self._advice(error.status)}") from None
        if bucket.file_size_limit is not None and bucket.file_size_limit < _MIN_FILE_SIZE_LIMIT:
            raise SettingsError(
                f"The bucket {self._bucket} allows files of {bucket.file_size_limit} bytes. Allow {_MIN_FILE_SIZE_LIMIT} or more."
            )
        rejected = [mime for mime in self._mime_types() if not _allows(bucket.allowed_mime_types, mime)]
        if rejected:
            raise SettingsError(f"The bucket {self._bucket} does not allow {', '.join(rejected)}. Add them to its allowed MIME types.")

    def _mime_types(self) -> list[str]:
        made = [image.mime for image in IMAGE_TYPES.values()] + [VIDEO_MIME]
        return [*made, "application/json"] if self.keeps_callbacks else made

    def _advice(self, status: int | None) -> str:
        if status in (401, 403):
            return "Set SUPABASE_SERVICE_ROLE_KEY to the service key of this project."
        if status == 404:
            return f"Create the bucket {self._bucket} or set STORAGE_BUCKET to another, and check that the key is the service key."
        return "Check that SUPABASE_URL is correct and that the project is running."

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, overwriting any previous one. Idempotent; retries transient failures within `UPLOAD_DEADLINE`.

        Args:
            key: From `object_key`.
            content: The bytes, or a file, which is streamed.
            content_type: The MIME type.
            seconds: A shorter time limit than `UPLOAD_DEADLINE`.

        Raises:
            UploadError: It is not stored, or the outcome is unknown. Not retryable after a permanent rejection.
            ValueError: The key is not from `object_key`.
            OSError: The file cannot be read.
        """
        stored = describe_object(checked_key(key), content)

        def upload(api: SyncStorageClient) -> None:
            api.from_(self._bucket).upload(
                key, content, {"content-type": content_type, "upsert": "true", "metadata": {"sha256": stored.sha256}}
            )

        try:
            self._call(upload, Deadline(min(self._deadline, seconds)))
        except RequestFailed as error:
            raise UploadError(f"The result could not be stored: {error}.", retryable=error.retryable) from None
        return stored

    def _call(self, request: Callable[[SyncStorageClient], T], deadline: Deadline) -> T:
        for attempt in retrying(deadline, STORAGE_RETRIES):
            with attempt, _translate_errors(), self._open_client(deadline) as api:
                return request(api)
        raise AssertionError("retrying() yields at least once and propagates the last error")

    @contextmanager
    def _open_client(self, deadline: Deadline) -> Iterator[SyncStorageClient]:
        # The operator's own service may have a private address.
        with guarded_client(deadline, allow_private=lambda host, port: True, verify=self._tls, read_timeout=_READ_TIMEOUT) as client:
            yield SyncStorageClient(self._url, auth_headers(self._key), http_client=client)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translates errors into messages without the service's own texts, and classifies them as retryable or not."""
    try:
        yield
    except StorageApiError as error:
        status = _status(error)
        cause = _CAUSES.get(status, f"it returned HTTP {status}")
        raise RequestFailed(f"storage failed, {cause}", retryable=STORAGE_RETRIES.retries_status(status), status=status) from None
    except httpx.TimeoutException:
        raise RequestFailed("storage timed out", retryable=True) from None
    except httpx.TransportError:
        raise RequestFailed("the connection to storage failed", retryable=True) from None
    except HostRefused as error:
        raise RequestFailed(f"storage was not contacted, {error}", retryable=False) from None
    except (KeyError, ValueError):
        # For example a gateway's error page. Whether the object was stored is unknown.
        raise RequestFailed("storage sent an invalid response", retryable=True) from None


def _status(error: StorageApiError) -> int:
    try:
        return int(error.status)
    except ValueError:
        return 500


def _allows(patterns: list[str] | None, mime: str) -> bool:
    return not patterns or any(mime == pattern or (pattern.endswith("/*") and mime.startswith(pattern[:-1])) for pattern in patterns)
