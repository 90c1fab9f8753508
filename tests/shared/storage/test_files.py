"""What has its name is on the disk, whole: seen in the order in which the system is asked."""

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
from shared.jobs.delivery.outbox import OutboxWriter, Outbox
from shared.storage.files import atomic_write

IDENTITY = Identity("job", "user-1", None, None)


@contextmanager
def watching(*names: str) -> Iterator[list[str]]:
    """The calls of functions of `os`, by their names, while the body runs."""
    calls: list[str] = []

    def called(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in names and function.__module__ == "posix":
            calls.append(function.__name__)

    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_a_file_takes_its_place_when_it_is_on_the_disk(tmp_path: Path) -> None:
    with watching("fsync", "replace") as calls, atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert calls == ["fsync", "replace"]


def an_entry(folder: Path) -> tuple[Outbox, OutboxWriter]:
    """One that is still to be sealed, with a file in it."""
    outbox = Outbox(folder / "outbox", max_bytes=10_000, max_age=60.0)
    writer = outbox.writer(IDENTITY)
    writer.add("user-1/job/0.png", b"pixels", "image/png")
    return outbox, writer


def seal(writer: OutboxWriter) -> None:
    metadata = {"error_code": "UPLOAD_ERROR", "error_type": "UploadError", "retryable": True, "processing_time": 1.0, "timings": {}}
    fields = {"job_id": "job", "worker_id": "w", "completed_at": datetime.now(UTC), "error_message": "x", "metadata": metadata}
    writer.commit(IDENTITY, FailedPayload.model_validate(fields), webhook_id="job_failed", calls_back=True)


def test_an_entry_of_the_outbox_counts_when_all_of_it_is_on_the_disk(tmp_path: Path) -> None:
    with watching("fsync", "replace", "rename") as calls:
        seal(an_entry(tmp_path)[1])
    picture, manifest, names = ["fsync", "replace"], ["fsync", "replace"], ["fsync"]
    assert calls == [*picture, *manifest, *names, "rename", *names]


def test_an_entry_that_is_taken_away_is_none_before_the_first_file_of_it_is_gone(tmp_path: Path) -> None:
    outbox, writer = an_entry(tmp_path)
    seal(writer)
    with watching("rename", "unlink", "rmdir") as calls:
        outbox.discard(IDENTITY)
    assert calls == ["rename", "unlink", "unlink", "rmdir"]
    assert list((tmp_path / "outbox").iterdir()) == []
