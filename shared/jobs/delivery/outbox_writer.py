"""Writing one entry of the outbox."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from shared.contract.callback import CompletedPayload, FailedPayload, to_json
from shared.contract.request import Identity
from shared.jobs.delivery.outbox_entry import MANIFEST, OutboxEntry, OutboxFile
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.jobs.delivery.outbox_names import authenticated_name
from shared.storage.files import atomic_write, fsync_directory
from shared.storage.protocol import StoredObject, describe_object


class OutboxFolder(Protocol):
    """What a writer needs of the outbox."""

    @property
    def keys(self) -> EntryKeys:
        """Authenticate entries."""

    def reserve(self, size: int) -> AbstractContextManager[None]:
        """Reserves space that the body fills."""

    def create_partial(self, digest: str) -> Path:
        """Creates the folder in which an entry is written."""

    def pending(self, digest: str) -> object:
        """Deletes the superseded entries of a job."""


class OutboxWriter:
    """Writes one entry: `add` files, then `commit`, or `discard` at any time before."""

    def __init__(self, outbox: OutboxFolder, digest: str) -> None:
        self._outbox = outbox
        self._digest = digest
        self._lock = threading.Lock()
        self._part: Path | None = None
        self._files: list[OutboxFile] = []

    @property
    def files(self) -> tuple[OutboxFile, ...]:
        """The files added so far, sorted by key."""
        with self._lock:
            return tuple(sorted(self._files, key=lambda file: file.key))

    def add(self, key: str, content: bytes | Path, content_type: str) -> StoredObject:
        """Adds a file.

        Raises:
            OSError: The disk refused it, or the outbox is full.
        """
        stored = describe_object(key, content)
        name = key.rpartition("/")[2]
        with self._outbox.reserve(stored.size), atomic_write(self._folder() / name, mode=0o600) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, length=1 << 20)
        with self._lock:
            self._files.append(OutboxFile(key=key, content_type=content_type, size=stored.size, sha256=stored.sha256))
        return stored

    def commit(
        self,
        identity: Identity,
        payload: CompletedPayload | FailedPayload,
        *,
        webhook_id: str,
        calls_back: bool,
        stored: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Adds the payload and makes the entry pending. It supersedes earlier entries of the same job.

        Args:
            identity: The job.
            payload: What is sent once the files are stored.
            webhook_id: Its idempotency key.
            calls_back: Whether it is sent.
            stored: The SHA-256 of each object that the job has stored already, by key.

        Raises:
            OSError: It could not be written. The entry is discarded.
        """
        entry = OutboxEntry(
            job_id=identity.job_id,
            user_id=identity.user_id,
            calls_back=calls_back,
            webhook_id=webhook_id,
            callback_url=identity.callback_url,
            traceparent=identity.trace.traceparent if identity.trace is not None else None,
            payload=to_json(payload).decode(),
            files=self.files,
            stored=dict(stored),
        )
        try:
            self._write_manifest(entry.model_dump_json().encode())
        finally:
            self.discard()
        self._outbox.pending(self._digest)

    def _write_manifest(self, content: bytes) -> None:
        """Completes the entry and gives it the name under which it is pending."""
        with self._outbox.reserve(len(content)):
            part = self._folder()
            with atomic_write(part / MANIFEST, mode=0o600) as file:
                file.write(content)
        fsync_directory(part)
        name = authenticated_name(part)
        part.rename(part.with_name(f"{name}.{self._outbox.keys.mac(name, content)}"))
        fsync_directory(part.parent)
        self._part = None

    def discard(self) -> None:
        """Deletes what was not committed."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)

    def _folder(self) -> Path:
        with self._lock:
            if self._part is None:
                self._part = self._outbox.create_partial(self._digest)
            return self._part
