"""What every storage does, and the one place that builds its keys."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[a-z0-9]{1,8}){1,2}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object that is really there.

    Attributes:
        key: Where, without the bucket: `{user_id}/{job_id}/{name}`.
        size: Bytes.
        sha256: Of the bytes, in hexadecimal.
    """

    key: str
    size: int
    sha256: str


class Storage(Protocol):
    """Where results go. Safe to be used by several threads at once."""

    @property
    def keeps_callbacks(self) -> bool:
        """Whether `callback.json` is stored beside the assets."""

    def check(self) -> None:
        """Proves, before the first job, that results can be stored.

        Raises:
            SettingsError: They cannot. The message says what to do.
        """

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, over what was there before. It is there as a whole or not at all.

        Args:
            key: Made by `object_key`.
            content: The bytes, or the file that holds them; a file is streamed.
            content_type: The media type.
            seconds: At most so long, where the storage's own limit is not shorter.

        Raises:
            UploadError: It is not stored, or nobody knows.
            ValueError: The key was not made by `object_key`.
        """


def object_key(user_id: str, job_id: str, name: str) -> str:
    """Builds `{user_id}/{job_id}/{name}`.

    Storages drop empty segments and decode escapes, so a part that holds anything but plain characters could end in another user's folder.

    Args:
        user_id: 1 … 128 of `A-Z a-z 0-9 _ -`.
        job_id: The same.
        name: A plain name with one or two short extensions: `0.png`, `0.thumb.webp`, `callback.json`.

    Raises:
        ValueError: A part holds something else.
    """
    for part, pattern in ((user_id, _ID), (job_id, _ID), (name, _NAME)):
        if not pattern.fullmatch(part):
            raise ValueError("A key is made of a user's id, a job's id and a plain file name; one of the three is not fit for a path.")
    return f"{user_id}/{job_id}/{name}"


def checked_key(key: str) -> str:
    """Returns the key that was given, if `object_key` could have made it.

    Raises:
        ValueError: It could not.
    """
    parts = key.split("/")
    if len(parts) != 3:
        raise ValueError("A key has three parts: a user's id, a job's id and a file name.")
    return object_key(*parts)


def describe_object(key: str, content: bytes | Path) -> StoredObject:
    """Says what will be stored under a key.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(content, bytes):
        return StoredObject(key, len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return StoredObject(key, file.tell(), digest.hexdigest())
