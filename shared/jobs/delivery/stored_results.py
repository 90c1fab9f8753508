"""Compares a result with what storage holds of the same job: a late one must not overwrite a newer one, nor leave files of an older one.

A job can run more than once: RunPod delivers it at least once, and a caller may send it again. All runs write to one folder. An object was
written by another run if its SHA-256 differs, and by a newer one if it was also modified after this run has started.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime

from pydantic import BaseModel

from shared.jobs.delivery.outbox_entry import OutboxEntry
from shared.storage.protocol import ListedObject, Storage
from shared.telemetry import logger

# `callback.json` belongs to every run, and other files to no run.
_ASSET = re.compile(r".*/[0-9]+\.[^/]+")


class _Metadata(BaseModel):
    processing_time: float


class _Run(BaseModel):
    """The part of a payload that tells when its run started."""

    completedAt: datetime
    metadata: _Metadata

    @property
    def started(self) -> float:
        return self.completedAt.timestamp() - self.metadata.processing_time


def is_superseded(entry: OutboxEntry, storage: Storage) -> bool:
    """Whether storage holds a newer result of the entry's job. An entry without a user stores nothing and cannot be compared.

    Raises:
        UploadError: The folder of the job cannot be listed.
    """
    if entry.user_id is None:
        return False
    started = _Run.model_validate_json(entry.payload).started
    own = {**entry.stored, **{file.key: file.sha256 for file in entry.files}}
    later = [each for each in storage.list_objects(entry.user_id, entry.job_id) if _is_asset(each) and each.modified_at > started]
    return any(own.get(each.key) is None or storage.sha256(each.key) != own[each.key] for each in later)


def remove_older(storage: Storage, listed: Iterable[ListedObject], payload: bytes | str, keep: Collection[str]) -> None:
    """Deletes assets of earlier runs of a job, which had another format or a larger number of them.

    Args:
        storage: Holds them.
        listed: What it holds of the job.
        payload: The payload of the run that has completed.
        keep: The keys of its files.

    Raises:
        UploadError: They cannot be deleted.
    """
    started = _Run.model_validate_json(payload).started
    older = [each.key for each in listed if _is_asset(each) and each.key not in keep and each.modified_at + each.rounded_by < started]
    if older:
        storage.remove(older)
        logger().info("files of an earlier run removed", files=len(older))


def _is_asset(listed: ListedObject) -> bool:
    return _ASSET.fullmatch(listed.key) is not None
