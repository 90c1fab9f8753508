"""What storage or a receiver did not take, kept on disk until it can be delivered: assets, and the payload that names them.

An entry is a folder: the files, and `entry.json`, which is written last (`shared/jobs/delivery/outbox_entry.py`). Its name ends in `.part` until it is
complete, so that what a crash leaves behind is never taken for an entry.
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
from collections.abc import Iterator
from pathlib import Path

from shared.contract.callback import CompletedPayload, FailedPayload, to_json
from shared.contract.request import Identity
from shared.jobs.delivery.outbox_entry import MANIFEST, Entry, OutboxFile, has_result
from shared.settings import SettingsError
from shared.storage.files import atomic_write, fsync_directory
from shared.storage.protocol import StoredObject, describe_object
from shared.telemetry import logger

_PART = ".part"
# Whose it is, when it was begun or sealed, and what tells it from others of that moment. What else an operator may have put there is left
# alone.
_NAME = re.compile(r"[0-9a-f]{32}\.[0-9]+\.[0-9a-f]{8}")
# Another worker on the same volume may still be writing one that is younger.
_PART_SECONDS = 24 * 3600.0


class Outbox:
    """A folder of entries, one for each job. Safe to be used by several threads, and by several workers on one volume.

    Args:
        folder: Made when it is first needed; for its owner alone.
        max_bytes: What all entries together may take. What does not fit is not kept, and its job is told so: an entry that a caller was
            promised is not given up for another one.
        max_age: Seconds after which an entry is given up.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_age: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.Lock()

    def check(self) -> None:
        """Writes and removes a file.

        Raises:
            SettingsError: The folder cannot be written to.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._folder / ".check") as file:
                file.write(b"ok")
            (self._folder / ".check").unlink()
        except OSError as error:
            raise SettingsError(f"OUTBOX_DIR cannot be written to ({error.strerror}). Please name a folder that can.") from None

    def writer(self, identity: Identity) -> OutboxWriter:
        """Begins an entry. Nothing is on the disk until something is put into it."""
        return OutboxWriter(self, _digest(identity))

    def pending(self) -> list[Path]:
        """The folders of all entries, the oldest first. Of several for one job only the newest counts, and no failure beside a result; the
        others are removed. That is judged here, not when they are sealed: runs of one job may seal at once, in several workers.
        """
        of_jobs: dict[str, list[Path]] = {}
        for path in self._entries():
            of_jobs.setdefault(_job_of(path), []).append(path)
        return sorted(map(self._latest, of_jobs.values()), key=_made_at)

    def discard(self, identity: Identity) -> None:
        """Removes what was kept of earlier runs of a job that has now been delivered."""
        for path in self._entries():
            if _job_of(path) == _digest(identity):
                self.remove(path)

    def remove(self, entry: Path) -> None:
        """Takes an entry away. It is none from the first moment on, so that what a crash leaves of it is cleared away, too."""
        with contextlib.suppress(OSError):  # another worker was faster, or the volume cannot be written to
            shutil.rmtree(entry.rename(entry.with_name(entry.name + _PART)), ignore_errors=True)

    def contains(self, identity: Identity) -> bool:
        """Whether there is an entry for a job."""
        return any(_job_of(path) == _digest(identity) for path in self._entries())

    def expire(self) -> None:
        """Removes entries that are older than `max_age`, and what crashes have left behind."""
        now = time.time()
        for path in self._entries():
            if now - _made_at(path) / 1e9 > self._max_age:
                logger().error("an undelivered result was given up, because it is too old", entry=path.name)
                self.remove(path)
        for path in self._folder.glob(f"*{_PART}"):
            with contextlib.suppress(FileNotFoundError):  # it was sealed or dropped meanwhile
                if now - path.stat().st_mtime > _PART_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """So many bytes may be added inside. One after the other: of what is being written nobody knows yet how large it will be.

        Raises:
            OSError: They would be too many.
        """
        with self._lock:
            taken = _size(self._folder)
            if taken + size > self._max_bytes:
                raise OSError("the outbox is full: OUTBOX_MAX_BYTES")
            yield

    def create_partial(self, digest: str) -> Path:
        """Makes the folder that an entry is written in."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{digest}.{time.time_ns()}.{secrets.token_hex(4)}{_PART}"
        path.mkdir(mode=0o700)
        return path

    def _latest(self, entries: list[Path]) -> Path:
        """Which entry of a job counts. The others are removed."""
        if len(entries) == 1:
            return entries[0]
        *others, foremost = sorted(entries, key=lambda path: (has_result(path), _made_at(path)))
        for other in others:
            self.remove(other)
        return foremost

    def _entries(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]


class OutboxWriter:
    """An entry that is being written. It counts when it was sealed; until then it can be dropped."""

    def __init__(self, outbox: Outbox, digest: str) -> None:
        self._outbox = outbox
        self._digest = digest
        self._lock = threading.Lock()
        self._part: Path | None = None
        self._files: list[OutboxFile] = []

    @property
    def files(self) -> tuple[OutboxFile, ...]:
        """What was put into it so far, in the order of its keys."""
        with self._lock:
            return tuple(sorted(self._files, key=lambda file: file.key))

    def add(self, key: str, content: bytes | Path, content_type: str) -> StoredObject:
        """Keeps a file.

        Raises:
            OSError: It cannot be kept: the disk refused, or the outbox is full.
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

    def commit(self, identity: Identity, payload: CompletedPayload | FailedPayload, *, webhook_id: str, calls_back: bool) -> None:
        """Adds the payload. From now on it is an entry, and takes the place of earlier ones for the same job.

        Raises:
            OSError: It cannot be kept. Nothing of it is left then.
        """
        entry = Entry(
            job_id=identity.job_id,
            user_id=identity.user_id,
            calls_back=calls_back,
            webhook_id=webhook_id,
            callback_url=identity.callback_url,
            payload=to_json(payload).decode(),
            files=self.files,
        )
        content = entry.model_dump_json().encode()
        try:
            with self._outbox.reserve(len(content)):
                part = self._folder()
                with atomic_write(part / MANIFEST) as file:
                    file.write(content)
            fsync_directory(part)
            part.rename(_as_entry(part))
            fsync_directory(part.parent)
            self._part = None
        finally:
            self.discard()
        self._outbox.pending()

    def discard(self) -> None:
        """Removes what was not sealed."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)

    def _folder(self) -> Path:
        with self._lock:
            if self._part is None:
                self._part = self._outbox.create_partial(self._digest)
            return self._part


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, from which other jobs and other workers may be taking some away."""
    total = 0
    for inside, _, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(inside) / name).stat().st_size
    return total


def _digest(identity: Identity) -> str:
    """A name for a job's entries that any file system can take: RunPod's own ids may hold anything."""
    return hashlib.sha256(f"{identity.user_id}\n{identity.job_id}".encode()).hexdigest()[:32]


def _as_entry(part: Path) -> Path:
    """What a part is called from now on. Its moment is that of its end: a result that took long is newer than what was kept meanwhile."""
    job, _, told_apart = part.name.removesuffix(_PART).split(".")
    return part.with_name(f"{job}.{time.time_ns()}.{told_apart}")


def _job_of(path: Path) -> str:
    return path.name.partition(".")[0]


def _made_at(path: Path) -> int:
    """Nanoseconds since 1970."""
    return int(path.name.split(".")[1])
