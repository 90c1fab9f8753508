"""Storage in a Supabase bucket.

How the service is spoken to follows from three things that it does. It puts the real status of an error into the body of an answer that is
always 400, so the body is believed. It refuses uploads before it has read them and keeps the connection, on which the next request then
hangs, so no connection is used twice. And it lets several creations of one object succeed, so creating would guard nothing: every upload
overwrites, and is repeated without harm when its answer was lost.
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

from shared.errors import UploadError
from shared.media.images import IMAGE_TYPES
from shared.media.videos import VIDEO_MIME
from shared.network import Deadline, HostRefused, RequestFailed, guarded_client, retrying
from shared.settings import Settings, SettingsError
from shared.storage.protocol import StoredObject, checked_key, describe_object

_ATTEMPTS = 6
_INITIAL_BACKOFF, _MAX_BACKOFF = 0.5, 15.0
# Longer than the 30 seconds after which the service itself gives up waiting for its database.
_READ_SECONDS = 60.0
_CHECK_SECONDS = 30.0
_RETRIED = frozenset({408, 409, 423, 425, 429})
_LEAST_SIZE_LIMIT = 10 * 1024 * 1024

_CAUSES = {
    401: "it refused the worker's key",
    403: "it refused the worker's key",
    404: "it does not know the bucket",
    413: "the file is larger than the bucket allows",
    415: "the bucket does not allow this type of file",
}

T = TypeVar("T")


class SupabaseStorage:
    """Keeps objects in `STORAGE_BUCKET` of the project at `SUPABASE_URL`, with their SHA-256 in the user metadata.

    Args:
        settings: With the project's URL and its service key.

    Raises:
        SettingsError: One of them is missing.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.supabase_url is None or settings.supabase_key is None:
            raise SettingsError("Storage needs both. Please set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY.")
        self.keeps_callbacks = settings.store_callback
        self._url = f"{settings.supabase_url}/storage/v1/"
        self._key = settings.supabase_key
        self._bucket = settings.storage_bucket
        self._deadline = settings.upload_deadline
        self._tls = httpx.create_ssl_context(trust_env=False)

    def check(self) -> None:
        """Asks for the bucket: proves the URL, the key, that the bucket exists, and that it takes what the worker makes.

        Raises:
            SettingsError: With what to do.
        """
        try:
            bucket = self._ask(lambda api: api.get_bucket(self._bucket), Deadline(min(_CHECK_SECONDS, self._deadline)))
        except RequestFailed as error:
            raise SettingsError(f"Results cannot be stored: {error}. {self._advice(error.status)}") from None
        if bucket.file_size_limit is not None and bucket.file_size_limit < _LEAST_SIZE_LIMIT:
            raise SettingsError(
                f"The bucket {self._bucket} allows files of {bucket.file_size_limit} bytes. Please allow {_LEAST_SIZE_LIMIT} or more."
            )
        refused = [mime for mime in self._mimes() if not _allows(bucket.allowed_mime_types, mime)]
        if refused:
            raise SettingsError(
                f"The bucket {self._bucket} does not allow {', '.join(refused)}. Please add them to its allowed MIME types."
            )

    def _mimes(self) -> list[str]:
        made = [image.mime for image in IMAGE_TYPES.values()] + [VIDEO_MIME]
        return [*made, "application/json"] if self.keeps_callbacks else made

    def _advice(self, status: int | None) -> str:
        if status in (401, 403):
            return "Please set SUPABASE_SERVICE_ROLE_KEY to the service key of this project."
        if status == 404:
            return f"Please create the bucket {self._bucket} or name another in STORAGE_BUCKET, and see that the key is the service key."
        return "Please see that SUPABASE_URL is right and that the project runs."

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, over what was there before. Repeats the upload when it fails for now, within `UPLOAD_DEADLINE`.

        Args:
            key: Made by `object_key`.
            content: The bytes, or the file that holds them; a file is streamed.
            content_type: The media type.
            seconds: At most so long, where `UPLOAD_DEADLINE` is not shorter.

        Raises:
            UploadError: It is not stored, or nobody knows. Not retryable when storage refused it for good.
            ValueError: The key was not made by `object_key`.
            OSError: The file cannot be read.
        """
        stored = describe_object(checked_key(key), content)

        def upload(api: SyncStorageClient) -> None:
            api.from_(self._bucket).upload(
                key, content, {"content-type": content_type, "upsert": "true", "metadata": {"sha256": stored.sha256}}
            )

        try:
            self._ask(upload, Deadline(min(self._deadline, seconds)))
        except RequestFailed as error:
            raise UploadError(f"The result could not be stored: {error}.", retryable=error.retryable) from None
        return stored

    def _ask(self, request: Callable[[SyncStorageClient], T], deadline: Deadline) -> T:
        for attempt in retrying(deadline, attempts=_ATTEMPTS, initial_backoff=_INITIAL_BACKOFF, max_backoff=_MAX_BACKOFF):
            with attempt, _translate_errors(), self._open_client(deadline) as api:
                return request(api)
        raise AssertionError("retrying() yields at least once and lets the last error through")

    @contextmanager
    def _open_client(self, deadline: Deadline) -> Iterator[SyncStorageClient]:
        # The operator's own service: it may have any address.
        with guarded_client(deadline, allow_private=lambda host, port: True, verify=self._tls, read_seconds=_READ_SECONDS) as client:
            key = self._key.get_secret_value()
            yield SyncStorageClient(self._url, {"apikey": key, "Authorization": f"Bearer {key}"}, http_client=client)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Says in words what went wrong, without the service's own texts, and whether to try again."""
    try:
        yield
    except StorageApiError as error:
        status = _status(error)
        cause = _CAUSES.get(status, f"it answered with {status}")
        raise RequestFailed(f"storage failed, {cause}", retryable=status >= 500 or status in _RETRIED, status=status) from None
    except httpx.TimeoutException:
        raise RequestFailed("storage did not answer in time", retryable=True) from None
    except httpx.TransportError:
        raise RequestFailed("the connection to storage failed", retryable=True) from None
    except HostRefused as error:
        raise RequestFailed(f"storage is not contacted, {error}", retryable=False) from None
    except (KeyError, ValueError):
        # A gateway's page instead of an answer. Whether the object was stored is not known.
        raise RequestFailed("storage gave an answer that is none", retryable=True) from None


def _status(error: StorageApiError) -> int:
    try:
        return int(error.status)
    except ValueError:
        return 500


def _allows(patterns: list[str] | None, mime: str) -> bool:
    return not patterns or any(mime == pattern or (pattern.endswith("/*") and mime.startswith(pattern[:-1])) for pattern in patterns)
