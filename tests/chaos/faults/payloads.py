"""What payloads name, compared with what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tests.chaos.faults.world import World


def files_of(payload: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """The keys that a payload names, and the sizes that it says."""
    for asset in payload["assets"]:
        if asset["type"] != "text":
            yield asset["url"], asset["file_size_bytes"]
            yield asset["thumbnail_url"], None


def is_whole(world: World, key: str, size: int | None) -> bool:
    """Whether an object is stored as it should be, byte for byte."""
    stored = world.storage.objects.get(key)
    if stored is None or (size is not None and len(stored.content) != size):
        return False
    return bool(stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest())
