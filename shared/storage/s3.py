"""Storage in a bucket of any S3-compatible service: AWS, Cloudflare R2, MinIO, RunPod's network volumes.

Every upload is one request that overwrites, so it is atomic and safe to retry when the response was lost. Its body is signed: the service
compares it with its SHA-256 and its MD5 and refuses what was damaged on the way. The SHA-256 is kept in the user metadata.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from shared.network import Deadline, RequestFailed
from shared.settings import Settings, SettingsError
from shared.storage.bucket_policy import BucketPolicy
from shared.storage.bucket_requests import READ_TIMEOUT, BucketRequests
from shared.storage.protocol import ListedObject, StoredObject, checked_key, describe_object, object_key
from shared.storage.s3_client import S3Client
from shared.storage.s3_errors import advice, translate_s3_errors

# S3 keeps whole seconds.
_SECOND = 1.0
_PROBE_KEY = "worker-check/probe.txt"
_PROBE_CONTENT = b"A worker has checked that it can store results here."


class S3Storage:
    """Stores objects in a bucket.

    Args:
        settings: The service, the bucket and the keys.

    Raises:
        SettingsError: One of them is missing, or the client cannot be created.
    """

    def __init__(self, settings: Settings) -> None:
        location, key_id, secret = settings.bucket_location, settings.bucket_access_key_id, settings.bucket_secret_access_key
        if location is None or key_id is None or secret is None:
            raise SettingsError("Results in S3 need BUCKET_ENDPOINT_URL, BUCKET_NAME, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY.")
        self.keeps_callbacks = settings.store_callback
        self._bucket = location.bucket
        self._expiry = settings.bucket_url_expiry
        self._policy = BucketPolicy()
        self._requests = BucketRequests(self._connect, self._policy, settings.upload_deadline)
        try:
            self._client = S3Client(location, key_id, secret, read_timeout=READ_TIMEOUT)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"The S3 client cannot be created ({type(error).__name__}). Correct or unset the AWS_ variables.") from None

    def check(self, mime_types: Collection[str]) -> None:
        """Stores, reads, lists and deletes a small object: whatever a job or the redelivery of its result needs.

        Args:
            mime_types: Buckets of S3 accept every type. With nothing to store, nothing is checked.

        Raises:
            SettingsError: Says what to do.
        """
        if not mime_types and not self.keeps_callbacks:
            return
        deadline = self._requests.deadline()
        steps: dict[str, Callable[[Any], object]] = {
            "s3:PutObject": self._put_probe,
            "s3:GetObject": lambda api: api.head_object(Bucket=self._bucket, Key=_PROBE_KEY),
            "s3:ListBucket": lambda api: self._list(api, _PROBE_KEY),
            "s3:DeleteObject": partial(self._delete, key=_PROBE_KEY),
        }
        for permission, request in steps.items():
            try:
                self._requests.call(request, deadline)
            except RequestFailed as error:
                help_text = advice(error.status, bucket=self._bucket, permission=permission)
                raise SettingsError(f"Results cannot be stored: {error}. {help_text}") from None

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        """Stores a small object if an upload was refused for good and nothing was stored since.

        Args:
            mime_types: Buckets of S3 accept every type.
            max_bytes: Ignored.

        Raises:
            UploadError: An upload would be refused.
        """
        if not mime_types or not self._policy.refuses:
            return
        self._requests.probe(self._put_probe)
        self._policy.update(None)

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
        stored, md5 = describe_object(checked_key(key), content), _md5(content)

        def upload(api: Any) -> None:
            with nullcontext(BytesIO(content)) if isinstance(content, bytes) else content.open("rb") as body:
                response = api.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentLength=stored.size,
                    ContentType=content_type,
                    ContentMD5=md5,
                    # Otherwise a CDN or browser may go on serving an object that was overwritten.
                    CacheControl="no-cache",
                    Metadata={"sha256": stored.sha256},
                )
            response["ETag"]  # without which it is no response of S3, but for example a gateway's page

        self._requests.upload(upload, seconds)
        return stored

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        """Lists the folder of a job."""
        folder = object_key(user_id, job_id, "0.png").rpartition("/")[0] + "/"
        found = self._requests.query(lambda api: self._list(api, folder))
        return [ListedObject(entry["Key"], entry["LastModified"].timestamp(), _SECOND) for entry in found if not entry["Key"].endswith("/")]

    def sha256(self, key: str) -> str | None:
        """Returns the hash from an object's metadata, or of its content where the service has kept no metadata."""

        def look_up(api: Any) -> str:
            found = api.head_object(Bucket=self._bucket, Key=checked_key(key))
            metadata = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
            return str(metadata.get("sha256") or hashlib.sha256(api.get_object(Bucket=self._bucket, Key=key)["Body"].read()).hexdigest())

        return self._requests.find(look_up)

    def remove(self, keys: Sequence[str]) -> None:
        """Deletes objects one by one: not every service deletes several at once."""
        for key in keys:
            checked_key(key)
            self._requests.query(partial(self._delete, key=key))

    def presigned_url(self, key: str) -> str | None:
        """Returns a URL to download an object from, valid for `BUCKET_URL_EXPIRY` seconds from now; None if that is 0."""
        return self._client.presigned_url(self._bucket, checked_key(key), self._expiry) if self._expiry else None

    def _put_probe(self, api: Any) -> None:
        digest = _md5(_PROBE_CONTENT)
        api.put_object(Bucket=self._bucket, Key=_PROBE_KEY, Body=_PROBE_CONTENT, ContentType="text/plain", ContentMD5=digest)["ETag"]

    def _delete(self, api: Any, key: str) -> None:
        api.delete_object(Bucket=self._bucket, Key=key)

    def _list(self, api: Any, prefix: str) -> list[dict[str, Any]]:
        found = api.list_objects_v2(Bucket=self._bucket, Prefix=prefix)
        found["Name"]  # as in `put`
        return list(found.get("Contents", ()))

    @contextmanager
    def _connect(self, deadline: Deadline) -> Iterator[Any]:
        with translate_s3_errors(), self._client.within(deadline) as api:
            yield api


def _md5(content: bytes | Path) -> str:
    """Returns a `Content-MD5`, which services compare with the body. Some do not compare its SHA-256."""
    if isinstance(content, bytes):
        return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    with content.open("rb") as file:
        return b64encode(hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()).decode()
