"""The interface of storages, and the only place that builds object keys."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[a-z0-9]{1,8}){1,2}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object.

    Attributes:
        key: Without the bucket: `{user_id}/{job_id}/{name}`.
        size: In bytes.
        sha256: The content's SHA-256, hexadecimal.
        data: The content in base64, where it is returned with the payload instead of being kept.
    """

    key: str
    size: int
    sha256: str
    data: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in the folder of a job.

    Attributes:
        key: Without the bucket.
        modified_at: When it was last written, in seconds since 1970, by the storage's clock.
        rounded_by: Seconds by which it may have been written later, where the storage rounds down.
    """

    key: str
    modified_at: float
    rounded_by: float = 0.0


class Storage(Protocol):
    """A storage of results. Thread-safe."""

    @property
    def keeps_callbacks(self) -> bool:
        """Whether `callback.json` is stored with the assets."""

    def check(self, mime_types: Collection[str]) -> None:
        """Checks at startup that results can be stored.

        Args:
            mime_types: The types of the files that the handler always stores. `callback.json` is added where it is kept.

        Raises:
            SettingsError: They cannot. The message says what to do.
        """

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        """Checks before a job's work that its files will not be refused. Costs no request unless there is a reason to doubt it.

        Args:
            mime_types: The types of the files that the job stores.
            max_bytes: An upper bound of the bytes of these files together; 0 if there is none.

        Raises:
            UploadError: The storage refuses them, or has refused an earlier upload for good and still does.
        """

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object atomically, overwriting any previous one. Idempotent.

        Args:
            key: From `object_key`.
            content: The bytes, or a file, which is streamed.
            content_type: The MIME type.
            seconds: A shorter time limit than the storage's own.

        Raises:
            UploadError: It is not stored, or the outcome is unknown.
            ValueError: The key is not from `object_key`.
        """

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        """Lists the folder of a job.

        Raises:
            UploadError: It cannot be listed.
        """

    def sha256(self, key: str) -> str | None:
        """Returns the SHA-256 of an object; None if there is no such object, or it was stored without one.

        Raises:
            UploadError: It cannot be queried.
        """

    def remove(self, keys: Sequence[str]) -> None:
        """Deletes objects. Those that do not exist are ignored.

        Raises:
            UploadError: They cannot be deleted.
        """

    def presigned_url(self, key: str) -> str | None:
        """Returns a URL that downloads an object without a key for a limited time, if the storage has such URLs. Costs no request."""


def object_key(user_id: str, job_id: str, name: str) -> str:
    """Builds `{user_id}/{job_id}/{name}`.

    Storages drop empty segments and decode escapes, so other characters could lead to another user's folder (path traversal).

    Args:
        user_id: 1 … 128 of `A-Z a-z 0-9 _ -`.
        job_id: Likewise.
        name: A plain name with one or two short extensions: `0.png`, `0.thumb.webp`, `callback.json`.

    Raises:
        ValueError: A part has other characters.
    """
    for part, pattern in ((user_id, _ID), (job_id, _ID), (name, _NAME)):
        if not pattern.fullmatch(part):
            raise ValueError("A key consists of a user id, a job id and a plain file name; one of them is unsafe in a path.")
    return f"{user_id}/{job_id}/{name}"


def checked_key(key: str) -> str:
    """Returns a key unchanged if it has the form of `object_key`.

    Raises:
        ValueError: It has not.
    """
    parts = key.split("/")
    if len(parts) != 3:
        raise ValueError("A key has three parts: a user id, a job id and a file name.")
    return object_key(*parts)


def describe_object(key: str, content: bytes | Path) -> StoredObject:
    """Returns the size and hash of an object to be stored.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(content, bytes):
        return StoredObject(key, len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return StoredObject(key, file.tell(), digest.hexdigest())
