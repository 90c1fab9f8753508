"""Lost jobs are found from callbacks and storage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.webhooks import sign
from tests.chaos.fault_injection.harness import CALLBACK_SECRET, Harness
from tests.chaos.soak.lost_jobs import find_lost_jobs
from tests.doubles.fake_storage import StoredObject


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """A harness without workers."""
    (tmp_path / "models").mkdir()
    harness = Harness(tmp_path / "models", tmp_path / "models")
    yield harness
    harness.close()


def store(harness: Harness, key: str, content: bytes) -> None:
    harness.storage.objects[key] = StoredObject(content, "image/png", {"sha256": hashlib.sha256(content).hexdigest()})


def send_callback(harness: Harness, job_id: str, status: str, *, size: int = 4, **metadata: Any) -> None:
    asset = {"type": "image", "url": f"u/{job_id}/0.png", "thumbnail_url": f"u/{job_id}/0.thumb.webp", "file_size_bytes": size}
    payload = {"job_id": job_id, "status": status, "assets": [asset] if status == "completed" else [], "metadata": metadata}
    body = json.dumps(payload).encode()
    headers = sign(body, secret=CALLBACK_SECRET, webhook_id=f"{job_id}_{status}", at=datetime.now(UTC))
    httpx.post(harness.receiver.url, content=body, headers=headers)


def test_a_job_with_a_final_callback_and_intact_files_is_not_lost(harness: Harness) -> None:
    store(harness, "u/a/0.png", b"file")
    store(harness, "u/a/0.thumb.webp", b"thumb")
    send_callback(harness, "a", "completed")
    send_callback(harness, "b", "failed")
    assert find_lost_jobs(harness, ["a", "b"]) == {}


def test_a_job_without_a_final_callback_is_lost(harness: Harness) -> None:
    send_callback(harness, "a", "processing")
    assert find_lost_jobs(harness, ["a", "b"]) == {"a": "no final callback", "b": "no final callback"}


@pytest.mark.parametrize("content", [b"", b"fil", b"file and more"], ids=["missing", "truncated", "longer"])
def test_a_job_whose_file_is_missing_or_of_another_size_is_lost(harness: Harness, content: bytes) -> None:
    send_callback(harness, "a", "completed")
    store(harness, "u/a/0.thumb.webp", b"thumb")
    if content:
        store(harness, "u/a/0.png", content)
    assert "u/a/0.png is not stored" in find_lost_jobs(harness, ["a"]).get("a", "")


def test_a_job_whose_file_has_other_bytes_is_lost(harness: Harness) -> None:
    send_callback(harness, "a", "completed")
    store(harness, "u/a/0.thumb.webp", b"thumb")
    harness.storage.objects["u/a/0.png"] = StoredObject(b"fill", "image/png", {"sha256": hashlib.sha256(b"file").hexdigest()})
    assert "u/a/0.png is not stored" in find_lost_jobs(harness, ["a"]).get("a", "")


def test_a_job_whose_pending_files_were_never_delivered_is_lost(harness: Harness) -> None:
    send_callback(harness, "a", "failed", assets_pending=["u/a/0.png"])
    assert "never delivered" in find_lost_jobs(harness, ["a"]).get("a", "")
