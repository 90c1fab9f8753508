"""Results in the payload itself, as base64: for trials, without any storage."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from shared.errors import UploadError
from shared.storage.protocol import ListedObject, StoredObject, checked_key, describe_object

MAX_INLINE_BYTES: Final = 6_000_000
"""Of all files of a job together: in base64 they are 8 MB, and RunPod takes a result of 8 MiB with a margin."""

_ADVICE = "Ask for fewer or smaller files or for the format webp, or configure a bucket for results."


class InlineStorage:
    """Keeps nothing: every file is returned with the payload, and its key is only a name."""

    keeps_callbacks = False

    def check(self, mime_types: Collection[str]) -> None:
        """Accepts everything."""

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        """Compares the upper bound with what fits into a payload.

        Args:
            mime_types: Ignored.
            max_bytes: An upper bound of the bytes of the job's files together.

        Raises:
            UploadError: They may not fit.
        """
        if max_bytes > MAX_INLINE_BYTES:
            limit, largest = MAX_INLINE_BYTES / 1e6, max_bytes / 1e6
            message = f"The files of this job can have {largest:.1f} MB, and a result returned inline has at most {limit:.0f} MB."
            raise UploadError(f"{message} Nothing was generated. {_ADVICE}", retryable=False)

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Returns the content in base64.

        Args:
            key: From `object_key`.
            content: The bytes, or a file.
            content_type: Ignored: the asset has it.
            seconds: Ignored.

        Raises:
            UploadError: The file alone is too large.
            ValueError: The key is not from `object_key`.
            OSError: The file cannot be read.
        """
        stored = describe_object(checked_key(key), content)
        if stored.size > MAX_INLINE_BYTES:
            message = f"A file has {stored.size / 1e6:.1f} MB, and a result returned inline has at most {MAX_INLINE_BYTES / 1e6:.0f} MB."
            raise UploadError(f"{message} {_ADVICE}", retryable=False)
        data = content if isinstance(content, bytes) else content.read_bytes()
        return StoredObject(stored.key, stored.size, stored.sha256, data=b64encode(data).decode())

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        """Returns nothing: nothing is kept."""
        return []

    def sha256(self, key: str) -> None:
        """Returns None: nothing is kept."""

    def remove(self, keys: Sequence[str]) -> None:
        """Has nothing to delete."""

    def presigned_url(self, key: str) -> None:
        """Returns None: the payload has the file."""
