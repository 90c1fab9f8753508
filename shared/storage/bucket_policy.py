"""What a bucket is known to accept, so that a job is refused before its work and not after it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

# Of the key, of the bucket, of the type: the next upload would be refused, too. 413 depends on the file.
_PERMANENT = frozenset({401, 403, 404, 415})


class BucketPolicy:
    """The allowed MIME types at the last query, and whether an upload was refused for good since. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known = False
        self._patterns: Sequence[str] = ()
        self._refuses = False

    @property
    def refuses(self) -> bool:
        """Whether an upload was refused for good since the last successful query."""
        with self._lock:
            return self._refuses

    def update(self, patterns: Sequence[str] | None) -> None:
        """Takes over the result of a successful query.

        Args:
            patterns: The allowed MIME types, such as `image/png` and `image/*`; none allows all.
        """
        with self._lock:
            self._known, self._patterns, self._refuses = True, tuple(patterns or ()), False

    def record(self, status: int | None) -> None:
        """Takes note of the status with which an upload has failed."""
        if status in _PERMANENT:
            with self._lock:
                self._refuses = True

    def allows(self, mime_types: Collection[str]) -> bool:
        """Whether there is no reason to query the bucket before files of these types are made."""
        with self._lock:
            return self._known and not self._refuses and not self._rejected(mime_types)

    def rejected(self, mime_types: Collection[str]) -> list[str]:
        """Returns the types that are not allowed."""
        with self._lock:
            return self._rejected(mime_types)

    def _rejected(self, mime_types: Collection[str]) -> list[str]:
        return [mime for mime in mime_types if self._patterns and not any(_matches(pattern, mime) for pattern in self._patterns)]


def _matches(pattern: str, mime: str) -> bool:
    return mime == pattern or (pattern.endswith("/*") and mime.startswith(pattern[:-1]))
