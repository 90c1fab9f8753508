"""Durability of files and outbox entries, observed by the order of system calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from shared.contract.callback import FailedPayload
from shared.contract.request import Identity
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.jobs.delivery.outbox_writer import OutboxWriter
from shared.storage.files import atomic_write

IDENTITY = Identity("job", "user-1", None, None)


@contextmanager
def recorded_calls(*names: str) -> Iterator[list[str]]:
    """Records calls of `os` functions by name."""
    calls: list[str] = []

    def record(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in names and function.__module__ == "posix":
            calls.append(function.__name__)

    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_file_is_synced_before_it_is_renamed_into_place(tmp_path: Path) -> None:
    with recorded_calls("fsync", "replace") as calls, atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert calls == ["fsync", "replace"]


def open_entry(folder: Path) -> tuple[Outbox, OutboxWriter]:
    """Returns an uncommitted outbox entry with one file."""
    outbox = Outbox(folder / "outbox", EntryKeys(), max_bytes=10_000, max_age=60.0)
    writer = outbox.writer(IDENTITY)
    writer.add("user-1/job/0.png", b"pixels", "image/png")
    return outbox, writer


def commit(writer: OutboxWriter) -> None:
    metadata = {
        "runpod_id": "r",
        "error_code": "UPLOAD_ERROR",
        "error_type": "UploadError",
        "retryable": True,
        "processing_time": 1.0,
        "timings": {},
    }
    fields = {"job_id": "job", "worker_id": "w", "completed_at": datetime.now(UTC), "error_message": "x", "metadata": metadata}
    writer.commit(IDENTITY, FailedPayload.model_validate(fields), webhook_id="job_failed", calls_back=True)


def test_outbox_entry_is_synced_before_it_is_committed(tmp_path: Path) -> None:
    with recorded_calls("fsync", "replace", "rename") as calls:
        commit(open_entry(tmp_path)[1])
    image, manifest, folder = ["fsync", "replace"], ["fsync", "replace"], ["fsync"]
    assert calls == [*image, *manifest, *folder, "rename", *folder]


def test_outbox_entry_is_renamed_away_before_its_files_are_deleted(tmp_path: Path) -> None:
    outbox, writer = open_entry(tmp_path)
    commit(writer)
    with recorded_calls("rename", "unlink", "rmdir") as calls:
        outbox.discard(IDENTITY)
    assert calls == ["rename", "unlink", "unlink", "rmdir"]
    assert list((tmp_path / "outbox").iterdir()) == []
