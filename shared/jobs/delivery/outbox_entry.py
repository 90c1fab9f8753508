"""What an entry of the outbox says of itself. No key and no signature is in it: payloads are signed when they are sent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.storage.protocol import checked_key
from shared.webhooks import WEBHOOK_ID

MANIFEST = "entry.json"
"""The file of an entry that says what it is. It is written last."""


class OutboxFile(BaseModel):
    """One asset that is to be stored: its key, its media type, and what it must be."""

    model_config = ConfigDict(frozen=True)

    key: Annotated[str, AfterValidator(checked_key)]
    content_type: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Of the file in the entry's folder."""
        return self.key.rpartition("/")[2]


class Entry(BaseModel):
    """What an entry says of itself.

    Attributes:
        job_id: Whose it is.
        calls_back: Whether the payload is to be sent. Where it is not, nobody waits for it.
        webhook_id: The id that receivers know a repetition by.
        callback_url: What the request asked for, if it did.
        payload: The body, byte for byte.
        files: What is to be stored before it is sent.
    """

    # Values come once: pydantic would remember each, thousands of them.
    model_config = ConfigDict(frozen=True, cache_strings="keys")

    version: Literal[1] = 1
    job_id: str
    user_id: str | None
    calls_back: bool
    webhook_id: Annotated[str, Field(pattern=WEBHOOK_ID)]
    callback_url: Annotated[str | None, Field(repr=False)]
    payload: Annotated[str, Field(repr=False)]
    files: tuple[OutboxFile, ...] = ()


def read_entry(folder: Path) -> Entry | None:
    """What an entry says, or None where it was delivered meanwhile, or it or one of its files is damaged."""
    try:
        entry = Entry.model_validate_json((folder / MANIFEST).read_bytes())
        whole = all(_sha256(folder / file.name) == file.sha256 for file in entry.files)
    except (OSError, ValidationError):
        return None
    return entry if whole else None


class _Said(BaseModel):
    """What a payload is asked for."""

    status: Literal["processing", "completed", "failed"]


def has_result(folder: Path) -> bool:
    """Whether an entry, and a whole one, says that its job was completed."""
    entry = read_entry(folder)
    try:
        return entry is not None and _Said.model_validate_json(entry.payload).status == "completed"
    except ValidationError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
