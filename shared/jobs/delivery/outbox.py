"""The outbox pattern on disk: assets and payloads that could not be delivered are kept until they can be. At least once, and idempotent.

An entry is a folder of files and a manifest, which is written last (`shared/jobs/delivery/outbox_entry.py`). The folder's name ends in
`.part` until the entry is committed, so that what a crash leaves behind is never delivered; then it ends in the entry's MAC
(`shared/jobs/delivery/outbox_keys.py`). An entry that is not authentic, damaged or no folder is renamed to `.rejected` and never delivered.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from shared.contract.request import Identity
from shared.jobs.delivery.outbox_entry import OpenEntry, has_result, open_entry
from shared.jobs.delivery.outbox_files import EntryRejected, delete, size_of
from shared.jobs.delivery.outbox_keys import EntryKeys, entry_keys
from shared.jobs.delivery.outbox_names import (
    PART,
    REJECTED,
    created_at,
    digest_of,
    is_entry,
    is_rejected,
    job_of,
    partial_name,
    rejected_name,
)
from shared.jobs.delivery.outbox_writer import OutboxWriter
from shared.settings import Settings, SettingsError
from shared.storage.files import atomic_write
from shared.telemetry import logger

# Another worker on the same volume may still be writing a younger one.
_PART_SECONDS = 24 * 3600.0


class Outbox:
    """A folder of entries. Safe for several threads, and for several workers on one volume.

    Args:
        folder: Created on first use, accessible to its owner only.
        keys: Authenticate entries.
        max_bytes: Limit for all entries together. An entry that does not fit is refused and its job fails: older entries are never evicted,
            because their callers were promised a delivery.
        max_age: Seconds after which an entry expires.
    """

    def __init__(self, folder: Path, keys: EntryKeys, *, max_bytes: int, max_age: float) -> None:
        self.keys = keys
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
        return OutboxWriter(self, digest_of(identity))

    def pending(self, digest: str | None = None) -> list[Path]:
        """Pending entries, oldest first, one per job: the newest result, else the newest failure. Superseded entries are deleted.

        Deduplicated here, not on commit, because duplicate deliveries of a job may commit concurrently in several workers. Entries that are
        not authentic are set aside first, so that none of them supersedes an entry that is.

        Args:
            digest: Only the entries of this job.
        """
        by_job: dict[str, list[Path]] = {}
        for path in self._entries():
            if digest in (None, job_of(path)) and self._try(path, lambda entry: True):
                by_job.setdefault(job_of(path), []).append(path)
        return sorted(filter(None, map(self._latest, by_job.values())), key=created_at)

    def open(self, entry: Path) -> AbstractContextManager[OpenEntry]:
        """Opens a pending entry; see `open_entry`."""
        return open_entry(entry, self.keys)

    def set_aside(self, entry: Path, reason: str) -> bool:
        """Renames an entry so that it is never delivered, and names it in the log. It is deleted after `max_age`, like any other.

        Returns:
            False if it is gone: another worker has delivered it meanwhile, and deleted its files.
        """
        try:
            entry.rename(entry.with_name(rejected_name(entry.name)))
        except FileNotFoundError:
            return False
        except OSError as error:
            logger().error("outbox entry cannot be set aside", entry=entry.name, reason=error.strerror)
        logger().error("outbox entry set aside", entry=entry.name, reason=reason)
        return True

    @property
    def rejected(self) -> int:
        """The number of entries that are set aside."""
        return len(self._set_aside())

    def discard(self, identity: Identity) -> None:
        """Deletes the entries of a job, because another delivery of it has succeeded."""
        for path in self._entries():
            if job_of(path) == digest_of(identity):
                self.remove(path)

    def remove(self, entry: Path) -> None:
        """Deletes an entry. Renames it first, so that a crash in between leaves no partial entry to be delivered."""
        with contextlib.suppress(OSError):  # another worker was faster, or the volume is read-only
            delete(entry.rename(entry.with_name(entry.name + PART)))

    def expire(self) -> None:
        """Deletes entries older than `max_age`, those that were set aside too, and uncommitted ones that a crash left behind."""
        now = time.time()
        for path in self._entries():
            if now - created_at(path) / 1e9 > self._max_age:
                logger().error("outbox entry expired undelivered", entry=path.name)
                self.remove(path)
        limits = dict.fromkeys(self._folder.glob(f"*{PART}"), _PART_SECONDS) | dict.fromkeys(self._set_aside(), self._max_age)
        for path, seconds in limits.items():
            with contextlib.suppress(FileNotFoundError):  # committed or discarded meanwhile
                if now - path.lstat().st_mtime > seconds:
                    delete(path)

    def _set_aside(self) -> list[Path]:
        return [path for path in self._folder.glob(f"*{REJECTED}") if is_rejected(path.name)]

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserves space that the body fills. Reservations are exclusive: the size of a file that is being written is not yet on the disk.

        Args:
            size: Bytes.

        Raises:
            OSError: The outbox would exceed `max_bytes`.
        """
        with self._lock:
            if not self._has_room(size):
                for path in self._entries():  # what others have put there counts until it is set aside
                    self._try(path, OpenEntry.check_sizes)
                if not self._has_room(size):
                    raise OSError("the outbox is full: OUTBOX_MAX_BYTES")
            yield

    def _has_room(self, size: int) -> bool:
        return size_of(self._folder, without=REJECTED) + size <= self._max_bytes

    def create_partial(self, digest: str) -> Path:
        """Creates the folder in which an entry is written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / partial_name(digest)
        path.mkdir(mode=0o700)
        return path

    def _latest(self, entries: list[Path]) -> Path | None:
        """Returns a job's current entry and deletes the superseded ones."""
        if len(entries) == 1:
            return entries[0]
        results = {path: result for path in entries if (result := self._try(path, has_result)) is not None}
        ordered = sorted(results, key=lambda path: (results[path], created_at(path)))
        for superseded in ordered[:-1]:
            self.remove(superseded)
        return ordered[-1] if ordered else None

    def _try(self, path: Path, read: Callable[[OpenEntry], bool]) -> bool | None:
        """Reads an entry. Returns None if it was delivered meanwhile, cannot be read now, or is set aside because of what it is."""
        try:
            with self.open(path) as entry:
                return read(entry)
        except EntryRejected as error:
            self.set_aside(path, str(error))
        except FileNotFoundError:
            pass
        except OSError as error:
            logger().error("outbox entry cannot be read", entry=path.name, reason=error.strerror)
        return None

    def _entries(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from [path for path in self._folder.iterdir() if is_entry(path.name)]


def open_outbox(settings: Settings) -> Outbox:
    """Returns the outbox that the operator has configured."""
    return Outbox(settings.outbox, entry_keys(settings), max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age)
