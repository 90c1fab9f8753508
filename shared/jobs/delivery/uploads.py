"""One job's way to storage. What storage does not take is kept, so that a finished job is not lost because its storage is away."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.contract.callback import CompletedPayload
from shared.errors import UploadError
from shared.jobs.delivery.outbox import OutboxWriter
from shared.storage.protocol import Storage, StoredObject
from shared.telemetry import logger


class UploadSession:
    """Stores the files of one job, or keeps them; what was kept is dropped at the end unless it was sealed. Used by several threads.

    Args:
        storage: Where they should go.
        writer: Where they are kept; None keeps nothing.
        commit: Seals the writer with the payload of the completed job.
    """

    def __init__(self, storage: Storage, writer: OutboxWriter | None, commit: Callable[[OutboxWriter, CompletedPayload], None]) -> None:
        self._storage = storage
        self._writer = writer
        self._commit = commit
        self._lock = threading.Lock()
        self._failure: UploadError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.discard()

    @property
    def uses_outbox(self) -> bool:
        """Whether something is kept. From then on everything is: storage that stayed away once is not waited for again."""
        with self._lock:
            return self._failure is not None

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        """Stores an object, or keeps it.

        Args:
            key: Made by `object_key`.
            content: The bytes, or the file that holds them.
            content_type: The media type.
            seconds: At most so long for storing.

        Raises:
            UploadError: It is neither stored nor kept.
        """
        if not self.uses_outbox:
            try:
                return self._storage.put(key, content, content_type, seconds=seconds)
            except UploadError as error:
                return self._keep(key, content, content_type, error)
        return self._keep(key, content, content_type, None)

    def _keep(self, key: str, content: bytes | Path, content_type: str, error: UploadError | None) -> StoredObject:
        with self._lock:
            failure = self._failure or error
        assert failure is not None, "nothing is kept before storage has failed"
        if self._writer is None:
            raise failure
        try:
            stored = self._writer.add(key, content, content_type)
        except OSError as refused:
            logger().error("not stored, and not kept", reason=refused.strerror or str(refused))
            raise failure from None
        with self._lock:
            self._failure = failure
        return stored

    def finalize(self, payload: CompletedPayload) -> CompletedPayload:
        """Returns the payload of a completed job of which everything is stored.

        Raises:
            UploadError: Something is kept instead. It names what will be stored later, together with the payload.
        """
        with self._lock:
            failure = self._failure
        if failure is None or self._writer is None:
            return payload
        pending = tuple(file.key for file in self._writer.files)
        try:
            self._commit(self._writer, payload)
        except OSError as refused:
            logger().error("not stored, and not kept", reason=refused.strerror or str(refused))
            raise failure from None
        message = f"{failure.message} The result is kept and will be stored and called back when storage can be reached."
        raise UploadError(message, retryable=failure.retryable, pending=pending)
