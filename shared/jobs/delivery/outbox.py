"""The outbox pattern on disk: assets and payloads that could not be delivered are kept until they can be. At least once, and idempotent.

An entry is a folder of files and a manifest, which is written last (`shared/jobs/delivery/outbox_entry.py`). The folder's name ends in
`.part` until the entry is committed, so that what a crash leaves behind is never delivered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from shared.contract.callback import CompletedPayload, FailedPayload, to_json
from shared.contract.request import Identity
from shared.jobs.delivery.outbox_entry import MANIFEST, OutboxEntry, OutboxFile, has_result
from shared.settings import Settings, SettingsError
from shared.storage.files import atomic_write, fsync_directory
from shared.storage.protocol import StoredObject, describe_object
from shared.telemetry import logger

_PART = ".part"
# Digest of the job, nanoseconds of creation, random suffix. Anything else in the folder belongs to the operator and is not touched.
_NAME = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[0-9a-f]{8}")
# Another worker on the same volume may still be writing a younger one.
_PART_SECONDS = 24 * 3600.0


class Outbox:
    """A folder of entries. Safe for several threads, and for several workers on one volume.

    Args:
        folder: Created on first use, accessible to its owner only.
        max_bytes: Limit for all entries together. An entry that does not fit is refused and its job fails: older entries are never evicted,
            because their callers were promised a delivery.
        max_age: Seconds after which an entry expires.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_age: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.Lock()

    def check(self) -> None:
        """Writes and removes a file.

        Raises:
            SettingsError: The folder is not writable.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._folder / ".check") as file:
                file.write(b"ok")
            (self._folder / ".check").unlink()
        except OSError as error:
            raise SettingsError(f"OUTBOX_DIR is not writable ({error.strerror}). Choose a writable folder.") from None

    def writer(self, identity: Identity) -> OutboxWriter:
        """Starts an entry. Nothing is written until a file is added."""
        return OutboxWriter(self, _digest(identity))

    def pending(self) -> list[Path]:
        """Pending entries, oldest first, one per job: the newest result, else the newest failure. Superseded entries are deleted.

        Deduplicated here, not on commit, because duplicate deliveries of a job may commit concurrently in several workers.
        """
        by_job: dict[str, list[Path]] = {}
        for path in self._entries():
            by_job.setdefault(_job_of(path), []).append(path)
        return sorted(map(self._latest, by_job.values()), key=_created_at)

    def discard(self, identity: Identity) -> None:
        """Deletes the entries of a job, because another delivery of it has succeeded."""
        for path in self._entries():
            if _job_of(path) == _digest(identity):
                self.remove(path)

    def remove(self, entry: Path) -> None:
        """Deletes an entry. Renames it first, so that a crash in between leaves no partial entry to be delivered."""
        with contextlib.suppress(OSError):  # another worker was faster, or the volume is read-only
            shutil.rmtree(entry.rename(entry.with_name(entry.name + _PART)), ignore_errors=True)

    def contains(self, identity: Identity) -> bool:
        """Whether a job has an entry."""
        return any(_job_of(path) == _digest(identity) for path in self._entries())

    def expire(self) -> None:
        """Deletes entries older than `max_age`, and uncommitted ones that a crash left behind."""
        now = time.time()
        for path in self._entries():
            if now - _created_at(path) / 1e9 > self._max_age:
                logger().error("outbox entry expired undelivered", entry=path.name)
                self.remove(path)
        for path in self._folder.glob(f"*{_PART}"):
            with contextlib.suppress(FileNotFoundError):  # committed or discarded meanwhile
                if now - path.stat().st_mtime > _PART_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserves space that the body fills. Reservations are exclusive: the size of a file that is being written is not yet on the disk.

        Args:
            size: Bytes.

        Raises:
            OSError: The outbox would exceed `max_bytes`.
        """
        with self._lock:
            taken = _size(self._folder)
            if taken + size > self._max_bytes:
                raise OSError("the outbox is full: OUTBOX_MAX_BYTES")
            yield

    def create_partial(self, digest: str) -> Path:
        """Creates the folder in which an entry is written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{digest}.{time.time_ns()}.{secrets.token_hex(4)}{_PART}"
        path.mkdir(mode=0o700)
        return path

    def _latest(self, entries: list[Path]) -> Path:
        """Returns a job's current entry and deletes the superseded ones."""
        if len(entries) == 1:
            return entries[0]
        *others, latest = sorted(entries, key=lambda path: (has_result(path), _created_at(path)))
        for other in others:
            self.remove(other)
        return latest

    def _entries(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]


class OutboxWriter:
    """Writes one entry: `add` files, then `commit`, or `discard` at any time before."""

    def __init__(self, outbox: Outbox, digest: str) -> None:
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
        with self._outbox.reserve(stored.size), atomic_write(self._folder() / name) as file:
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
            payload=to_json(payload).decode(),
            files=self.files,
            stored=dict(stored),
        )
        content = entry.model_dump_json().encode()
        try:
            with self._outbox.reserve(len(content)):
                part = self._folder()
                with atomic_write(part / MANIFEST) as file:
                    file.write(content)
            fsync_directory(part)
            part.rename(_committed(part))
            fsync_directory(part.parent)
            self._part = None
        finally:
            self.discard()
        self._outbox.pending()

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


def open_outbox(settings: Settings) -> Outbox:
    """Returns the outbox that the operator has configured."""
    return Outbox(settings.outbox, max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age)


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, from which other jobs and workers may be deleting."""
    total = 0
    for parent, _, names in os.walk(folder):  # which skips folders that have disappeared
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _digest(identity: Identity) -> str:
    """A file name for a job: RunPod's ids may contain any character."""
    return hashlib.sha256(f"{identity.user_id}\n{identity.job_id}".encode()).hexdigest()[:32]


def _committed(part: Path) -> Path:
    """The committed name of a partial entry, with the time of the commit: a slow result is newer than what was committed meanwhile."""
    job, _, suffix = part.name.removesuffix(_PART).split(".")
    return part.with_name(f"{job}.{time.time_ns()}.{suffix}")


def _job_of(path: Path) -> str:
    return path.name.partition(".")[0]


def _created_at(path: Path) -> int:
    """Nanoseconds since 1970."""
    return int(path.name.split(".")[1])
