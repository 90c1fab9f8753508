"""Storage in a Supabase bucket.

Three properties of the service determine this client. It puts the real status of an error into the body of a response that is always 400,
so the body is authoritative. It rejects uploads before reading them and keeps the connection open, on which the next request hangs, so
connections are not reused. And concurrent creations of one object all succeed, so creating would guard nothing: every upload overwrites,
which makes it idempotent and safe to retry when the response was lost.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from storage3 import SyncBucket, SyncStorageClient
from storage3.exceptions import StorageApiError

from shared.credentials import auth_headers
from shared.errors import UploadError
from shared.network import STORAGE_RETRIES, Deadline, RequestFailed, guarded_client
from shared.settings import Settings, SettingsError
from shared.storage.bucket_policy import BucketPolicy
from shared.storage.bucket_requests import READ_TIMEOUT, BucketRequests
from shared.storage.protocol import ListedObject, StoredObject, checked_key, describe_object, object_key
from shared.storage.transport_errors import translate_transport_errors

_MIN_FILE_SIZE_LIMIT = 10 * 1024 * 1024

_CAUSES = {
    401: "the worker's key was rejected",
    403: "the worker's key was rejected",
    404: "the bucket does not exist",
    413: "the file is larger than the bucket allows",
    415: "the bucket does not allow this MIME type",
}


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
        self._policy = BucketPolicy()
        self._requests = BucketRequests(self._connect, self._policy, settings.upload_deadline)
        self._tls = httpx.create_ssl_context(trust_env=False)

    def check(self, mime_types: Collection[str]) -> None:
        """Queries the bucket: checks the URL, the key, that the bucket exists, and that it accepts the worker's files.

        Args:
            mime_types: What the handler stores. With nothing to store, nothing is queried.

        Raises:
            SettingsError: Says what to do.
        """
        stored = [*mime_types, *(["application/json"] if self.keeps_callbacks else [])]
        if not stored:
            return
        try:
            bucket = self._requests.call(self._get_bucket, self._requests.deadline())
        except RequestFailed as error:
            raise SettingsError(f"Results cannot be stored: {error}. {self._advice(error.status)}") from None
        self._policy.update(bucket.allowed_mime_types)
        if bucket.file_size_limit is not None and bucket.file_size_limit < _MIN_FILE_SIZE_LIMIT:
            raise SettingsError(
                f"The bucket {self._bucket} allows files of {bucket.file_size_limit} bytes. Allow {_MIN_FILE_SIZE_LIMIT} or more."
            )
        if rejected := self._policy.rejected(stored):
            raise SettingsError(f"The bucket {self._bucket} does not allow {', '.join(rejected)}. Add them to its allowed MIME types.")

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        """Queries the bucket before the first job, after a refusal, and if it is not known to allow a type.

        Args:
            mime_types: The types of the files that the job stores.
            max_bytes: Ignored.

        Raises:
            UploadError: An upload would be refused. An outage is no refusal: uploads are retried, and the outbox is the fallback.
        """
        if not mime_types or self._policy.allows(mime_types):
            return
        bucket = self._requests.probe(self._get_bucket, tolerates_outage=not self._policy.refuses)
        if bucket is None:
            return
        self._policy.update(bucket.allowed_mime_types)
        if rejected := self._policy.rejected(mime_types):
            message = f"The result could not be stored: the bucket does not allow {', '.join(rejected)}. Nothing was generated. "
            raise UploadError(message + "Ask the operator to allow it, or ask for another format.", retryable=False)

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
                key,
                content,
                # Without `cache-control` a CDN or browser would serve an overwritten object for an hour.
                {"content-type": content_type, "upsert": "true", "cache-control": "0", "metadata": {"sha256": stored.sha256}},
            )

        self._requests.upload(upload, seconds)
        return stored

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        """Lists the folder of a job."""
        folder = object_key(user_id, job_id, "0.png").rpartition("/")[0]
        found = self._requests.query(lambda api: api.from_(self._bucket).list(folder))
        return [ListedObject(f"{folder}/{entry['name']}", _modified_at(entry)) for entry in found if entry.get("id") is not None]

    def sha256(self, key: str) -> str | None:
        """Returns the hash from an object's metadata."""
        found = self._requests.find(lambda api: api.from_(self._bucket).info(checked_key(key)))
        digest = ((found or {}).get("metadata") or {}).get("sha256")
        return digest if isinstance(digest, str) else None

    def remove(self, keys: Sequence[str]) -> None:
        """Deletes objects."""
        self._requests.query(lambda api: api.from_(self._bucket).remove([checked_key(key) for key in keys]))

    def presigned_url(self, key: str) -> None:
        """Returns None: receivers get the key, and open the object with their own access to the project."""

    def _get_bucket(self, api: SyncStorageClient) -> SyncBucket:
        return api.get_bucket(self._bucket)

    @contextmanager
    def _connect(self, deadline: Deadline) -> Iterator[SyncStorageClient]:
        # The operator's own service may have a private address.
        with (
            _translate_errors(),
            guarded_client(deadline, allow_private=lambda host, port: True, verify=self._tls, read_timeout=READ_TIMEOUT) as client,
        ):
            yield SyncStorageClient(self._url, auth_headers(self._key), http_client=client)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translates errors into messages without the service's own texts, and classifies them as retryable or not."""
    try:
        with translate_transport_errors():
            yield
    except StorageApiError as error:
        status = _status(error)
        cause = _CAUSES.get(status, f"it returned HTTP {status}")
        raise RequestFailed(f"storage failed, {cause}", retryable=STORAGE_RETRIES.retries_status(status), status=status) from None


def _status(error: StorageApiError) -> int:
    try:
        return int(error.status)
    except ValueError:
        return 500


def _modified_at(entry: Mapping[str, Any]) -> float:
    times = (entry.get("updated_at"), (entry.get("metadata") or {}).get("lastModified"))
    try:
        return max(datetime.fromisoformat(text).timestamp() for text in times if text)
    except (TypeError, ValueError):
        return math.inf  # unknown: treated as new, so that nothing is overwritten or deleted
