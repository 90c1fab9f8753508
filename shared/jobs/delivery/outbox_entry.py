"""The manifest of an outbox entry, and reading one. It holds no key and no signature: payloads are signed when they are sent.

The name of the entry's folder ends in the MAC of its manifest, which names the SHA-256 of each file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.jobs.delivery.outbox_files import EntryRejected, check_size, open_directory, private_copy, read_bounded, sha256_of
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.storage.protocol import checked_key
from shared.trace_context import TraceContext, parse_traceparent
from shared.webhooks import WEBHOOK_ID

MANIFEST = "entry.json"
"""The manifest's file name in the folder of its entry. It is written last."""

# A payload has at most 8 MiB (`shared/jobs/delivery/callbacks.py`), which escapes may double.
_MAX_MANIFEST_BYTES = 32 * 2**20


class OutboxFile(BaseModel):
    """A file of an entry, and the object that it will become in storage."""

    model_config = ConfigDict(frozen=True)

    key: Annotated[str, AfterValidator(checked_key)]
    content_type: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the folder of the entry."""
        return self.key.rpartition("/")[2]


class OutboxEntry(BaseModel):
    """The manifest.

    Attributes:
        job_id: The job.
        user_id: The job's user, if the request named a valid one.
        calls_back: Whether the payload is sent as a callback. If not, the entry only stores files.
        webhook_id: The idempotency key by which receivers recognize a repetition.
        callback_url: The URL that the request named, if any.
        traceparent: The position of the job in its trace, if it has one.
        payload: The body, byte for byte.
        files: The files to store before the payload is sent.
        stored: The SHA-256 of each object that the job has stored already, by key.
    """

    # `cache_strings`: pydantic would keep thousands of values that never recur.
    model_config = ConfigDict(frozen=True, cache_strings="keys")

    version: Literal[1] = 1
    job_id: str
    user_id: str | None
    calls_back: bool
    webhook_id: Annotated[str, Field(pattern=WEBHOOK_ID)]
    callback_url: Annotated[str | None, Field(repr=False)]
    traceparent: str | None = None
    payload: Annotated[str, Field(repr=False)]
    files: tuple[OutboxFile, ...] = ()
    stored: dict[str, str] = {}

    @property
    def trace(self) -> TraceContext | None:
        """The position of the job in its trace."""
        return None if self.traceparent is None else parse_traceparent(self.traceparent)


class OpenEntry:
    """An authenticated entry whose folder is open: its files are those of this folder, whatever has its name meanwhile.

    Attributes:
        manifest: The manifest.
    """

    def __init__(self, manifest: OutboxEntry, folder: int) -> None:
        self.manifest = manifest
        self._folder = folder

    def check_files(self) -> None:
        """Compares the size and the hash of each file.

        Raises:
            EntryRejected: A file is missing, or is not the one that was added.
        """
        with _missing_files():
            for file in self.manifest.files:
                if sha256_of(file.name, self._folder, file.size) != file.sha256:
                    raise EntryRejected(f"{file.name} has another content")

    def check_sizes(self) -> bool:
        """Compares only the sizes of the files. Returns True.

        Raises:
            EntryRejected: A file is missing or has another size.
        """
        with _missing_files():
            for file in self.manifest.files:
                check_size(file.name, self._folder, file.size)
        return True

    @contextmanager
    def copy_of(self, file: OutboxFile) -> Iterator[Path]:
        """Yields a private copy of a file, made of the bytes that were hashed.

        Raises:
            EntryRejected: The file is missing, or is not the one that was added.
        """
        with ExitStack() as stack:
            with _missing_files():
                path = stack.enter_context(private_copy(file.name, self._folder, file.size, file.sha256))
            yield path


@contextmanager
def open_entry(folder: Path, keys: EntryKeys) -> Iterator[OpenEntry]:
    """Opens and authenticates an entry.

    Raises:
        EntryRejected: It was not written by this deployment, or its manifest is damaged.
        FileNotFoundError: It was delivered meanwhile.
    """
    with open_directory(folder.parent) as parent, open_directory(folder.name, parent) as handle:
        with _missing_files():
            content = read_bounded(MANIFEST, handle, _MAX_MANIFEST_BYTES)
        name, _, mac = folder.name.rpartition(".")
        if not keys.verifies(mac, name, content):
            raise EntryRejected("it was not written with JOB_CALLBACK_SECRET, or was changed")
        try:
            manifest = OutboxEntry.model_validate_json(content)
        except ValidationError:
            raise EntryRejected("its manifest is not of this version") from None
        yield OpenEntry(manifest, handle)


@contextmanager
def _missing_files() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise EntryRejected(f"{error.filename} is missing") from None


class _PayloadStatus(BaseModel):
    """The part of a payload that `has_result` reads."""

    status: Literal["processing", "completed", "failed"]


def has_result(entry: OpenEntry) -> bool:
    """Whether an entry holds the payload of a completed job, and all of its files.

    Raises:
        EntryRejected: A file is missing, or is not the one that was added.
    """
    entry.check_files()
    try:
        return _PayloadStatus.model_validate_json(entry.manifest.payload).status == "completed"
    except ValidationError:
        raise EntryRejected("its payload is not of this version") from None
