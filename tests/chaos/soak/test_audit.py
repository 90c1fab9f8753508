"""The soak says so when something was lost, does not hold, or grows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.webhooks import sign
from tests.chaos.faults.world import CALLBACK_SECRET, World
from tests.chaos.soak.__main__ import tell
from tests.chaos.soak.audit import lost
from tests.chaos.soak.held import Held
from tests.chaos.soak.soak import Report
from tests.doubles.storage_server import StoredObject


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Without workers."""
    (tmp_path / "models").mkdir()
    around = World(tmp_path / "models", tmp_path / "models")
    yield around
    around.close()


def store(world: World, key: str, content: bytes) -> None:
    world.storage.objects[key] = StoredObject(content, "image/png", {"sha256": hashlib.sha256(content).hexdigest()})


def tell_receiver(world: World, job_id: str, status: str, *, size: int = 4, **metadata: Any) -> None:
    asset = {"type": "image", "url": f"u/{job_id}/0.png", "thumbnail_url": f"u/{job_id}/0.thumb.webp", "file_size_bytes": size}
    payload = {"job_id": job_id, "status": status, "assets": [asset] if status == "completed" else [], "metadata": metadata}
    body = json.dumps(payload).encode()
    httpx.post(
        world.inbox.url, content=body, headers=sign(body, secret=CALLBACK_SECRET, webhook_id=f"{job_id}_{status}", at=datetime.now(UTC))
    )


def test_a_job_that_was_told_and_is_stored_is_not_lost(world: World) -> None:
    store(world, "u/a/0.png", b"file")
    store(world, "u/a/0.thumb.webp", b"thumb")
    tell_receiver(world, "a", "completed")
    tell_receiver(world, "b", "failed")
    assert lost(world, ["a", "b"]) == {}


def test_a_job_of_which_nobody_was_told_the_end_is_lost(world: World) -> None:
    tell_receiver(world, "a", "processing")
    assert lost(world, ["a", "b"]) == {"a": "nobody was told how it ended", "b": "nobody was told how it ended"}


@pytest.mark.parametrize("content", [b"", b"fil", b"file and more"])
def test_a_job_of_which_a_file_is_not_there_as_it_was_is_lost(world: World, content: bytes) -> None:
    tell_receiver(world, "a", "completed")
    store(world, "u/a/0.thumb.webp", b"thumb")
    if content:
        store(world, "u/a/0.png", content)
    assert "u/a/0.png is not stored" in lost(world, ["a"]).get("a", "")


def test_a_file_with_other_bytes_is_not_what_was_stored(world: World) -> None:
    tell_receiver(world, "a", "completed")
    store(world, "u/a/0.thumb.webp", b"thumb")
    world.storage.objects["u/a/0.png"] = StoredObject(b"fill", "image/png", {"sha256": hashlib.sha256(b"file").hexdigest()})
    assert "u/a/0.png is not stored" in lost(world, ["a"]).get("a", "")


def test_a_job_whose_files_were_promised_and_never_came_is_lost(world: World) -> None:
    tell_receiver(world, "a", "failed", assets_pending=["u/a/0.png"])
    assert "were not" in lost(world, ["a"]).get("a", "")


def report(**changes: Any) -> Report:
    steady = Held([[1e8] * 200], [[17.0] * 200])
    return replace(Report(200, {"nothing": 200}, held={"sdxl": steady}), **changes)


def test_when_all_is_well_it_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(report()) == 0
    assert "survived 200/200, lost 0" in capsys.readouterr().out


def test_it_ends_with_1_when_something_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(report(lost={"soak-3": "nobody was told how it ended"})) == 1
    assert "soak-3: nobody was told" in (said := capsys.readouterr().out)
    assert "lost 1" in said


def test_it_ends_with_1_when_something_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(report(failures={"soak-3": "sdxl, nothing: AssertionError"})) == 1
    assert "survived 199/200" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["memory", "files"])
def test_it_ends_with_1_when_something_grows(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    held = {"memory": [[1e8] * 200], "files": [[17.0] * 200]}
    held[what] = [[before + 2**20 * job for job, before in enumerate(held[what][0])]]
    assert tell(report(held={"sdxl": Held(held["memory"], held["files"])})) == 1
    assert capsys.readouterr().out.count("GROWS") == 1
