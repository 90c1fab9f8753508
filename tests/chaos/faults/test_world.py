"""What cases ask of the world around the workers is answered while the workers go on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.jobs.delivery.outbox_entry import MANIFEST
from tests.chaos.faults.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "none").mkdir()
    around = World(tmp_path, tmp_path / "none")
    yield around
    around.close()


def put(world: World, name: str) -> Path:
    entry = world.outbox / name
    entry.mkdir(parents=True)
    (entry / MANIFEST).write_text(name)
    return entry


def test_what_waits_can_be_read_while_some_of_it_is_delivered(world: World) -> None:
    put(world, "stays")
    ends = threading.Event()

    def deliver() -> None:
        while not ends.is_set():
            for each in [put(world, f"goes-{number}") for number in range(50)]:
                shutil.rmtree(each)

    delivering = threading.Thread(target=deliver)
    delivering.start()
    try:
        assert all("stays" in world.waiting() for _ in range(1000))
    finally:
        ends.set()
        delivering.join()
