"""The manifest of an outbox entry. It holds no key and no signature: payloads are signed when they are sent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.storage.protocol import checked_key
from shared.webhooks import WEBHOOK_ID

MANIFEST = "entry.json"
"""The manifest's file name in the folder of its entry. It is written last."""


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
    payload: Annotated[str, Field(repr=False)]
    files: tuple[OutboxFile, ...] = ()
    stored: dict[str, str] = {}


def read_entry(folder: Path) -> OutboxEntry | None:
    """Reads a manifest. Returns None if the entry was delivered meanwhile, or if it or one of its files is damaged."""
    try:
        entry = OutboxEntry.model_validate_json((folder / MANIFEST).read_bytes())
        intact = all(_sha256(folder / file.name) == file.sha256 for file in entry.files)
    except (OSError, ValidationError):
        return None
    return entry if intact else None


class _PayloadStatus(BaseModel):
    """The part of a payload that `has_result` reads."""

    status: Literal["processing", "completed", "failed"]


def has_result(folder: Path) -> bool:
    """Whether an entry is intact and holds the payload of a completed job."""
    entry = read_entry(folder)
    try:
        return entry is not None and _PayloadStatus.model_validate_json(entry.payload).status == "completed"
    except ValidationError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
