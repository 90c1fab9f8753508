"""The harness can be read while workers change what it reads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.jobs.delivery.outbox_entry import MANIFEST
from tests.chaos.fault_injection.harness import Harness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    (tmp_path / "none").mkdir()
    harness = Harness(tmp_path, tmp_path / "none")
    yield harness
    harness.close()


def add_entry(harness: Harness, name: str) -> Path:
    entry = harness.outbox / name
    entry.mkdir(parents=True)
    (entry / MANIFEST).write_text(name)
    return entry


def test_manifests_can_be_read_while_entries_are_delivered(harness: Harness) -> None:
    add_entry(harness, "stays")
    stop = threading.Event()

    def deliver() -> None:
        while not stop.is_set():
            for entry in [add_entry(harness, f"goes-{number}") for number in range(50)]:
                shutil.rmtree(entry)

    delivering = threading.Thread(target=deliver)
    delivering.start()
    try:
        assert all("stays" in harness.outbox_manifests() for _ in range(1000))
    finally:
        stop.set()
        delivering.join()
