"""Compares the files that payloads name with what storage holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tests.chaos.fault_injection.harness import Harness


def named_files(payload: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Yields the storage key of each file that a payload names, and its size where the payload states it."""
    for asset in payload["assets"]:
        if asset["type"] != "text":
            yield asset["url"], asset["file_size_bytes"]
            yield asset["thumbnail_url"], None


def is_intact(harness: Harness, key: str, size: int | None) -> bool:
    """Whether an object is stored with the size and the SHA-256 that were declared for it."""
    stored = harness.storage.objects.get(key)
    if stored is None or (size is not None and len(stored.content) != size):
        return False
    return bool(stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest())
