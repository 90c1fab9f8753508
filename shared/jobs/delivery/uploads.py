"""One job's uploads. What storage refuses goes to the outbox, so that an unreachable storage does not lose a finished job."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.contract.callback import CompletedPayload
from shared.errors import UploadError
from shared.jobs.delivery.outbox_writer import OutboxWriter
from shared.storage.protocol import Storage, StoredObject
from shared.telemetry import logger


class UploadSession:
    """Stores the files of one job, or falls back to an outbox entry, which is discarded on exit unless it was committed. Thread-safe.

    Args:
        storage: Where the files belong.
        writer: Writes the outbox entry; None disables the fallback.
        commit: Commits the entry together with the payload of the completed job.
    """

    def __init__(self, storage: Storage, writer: OutboxWriter | None, commit: Callable[[OutboxWriter, CompletedPayload], None]) -> None:
        self._storage = storage
        self._writer = writer
        self._commit = commit
        self._lock = threading.Lock()
        self._failure: UploadError | None = None
        self._stored: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.discard()

    @property
    def uses_outbox(self) -> bool:
        """Whether a file went to the outbox. All later ones follow without another attempt at the storage, which may be slow to fail."""
        with self._lock:
            return self._failure is not None

    @property
    def stored(self) -> dict[str, str]:
        """The SHA-256 of each object that storage has taken, by key."""
        with self._lock:
            return dict(self._stored)

    def presigned_url(self, key: str) -> str | None:
        """Returns the URL to download an object from, if the storage has one; in the outbox, too, it will be stored there."""
        return self._storage.presigned_url(key)

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, in the outbox if need be.

        Args:
            key: From `object_key`.
            content: The bytes, or the file that holds them.
            content_type: The media type.
            seconds: Time limit for the upload.

        Raises:
            UploadError: Neither storage nor the outbox took it.
        """
        if not self.uses_outbox:
            try:
                stored = self._storage.put(key, content, content_type, seconds=seconds)
            except UploadError as error:
                return self._add_to_outbox(key, content, content_type, error)
            with self._lock:
                self._stored[key] = stored.sha256
            return stored
        return self._add_to_outbox(key, content, content_type, None)

    def _add_to_outbox(self, key: str, content: bytes | Path, content_type: str, error: UploadError | None) -> StoredObject:
        with self._lock:
            failure = self._failure or error
        assert failure is not None, "the outbox is used only after storage has failed"
        if self._writer is None:
            raise failure
        try:
            stored = self._writer.add(key, content, content_type)
        except OSError as refused:
            logger().error("neither stored nor added to the outbox", reason=refused.strerror or str(refused))
            raise failure from None
        with self._lock:
            self._failure = failure
        return stored

    def finalize(self, payload: CompletedPayload) -> CompletedPayload:
        """Returns the payload of a completed job if every file was stored; otherwise commits the outbox entry.

        Raises:
            UploadError: The files are in the outbox. Its `pending` names the keys that will be stored later, together with the payload.
        """
        with self._lock:
            failure = self._failure
        if failure is None or self._writer is None:
            return payload
        pending = tuple(file.key for file in self._writer.files)
        try:
            self._commit(self._writer, payload)
        except OSError as refused:
            logger().error("neither stored nor added to the outbox", reason=refused.strerror or str(refused))
            raise failure from None
        message = f"{failure.message} The result is kept and will be stored and called back when storage can be reached."
        raise UploadError(message, retryable=failure.retryable, pending=pending)
