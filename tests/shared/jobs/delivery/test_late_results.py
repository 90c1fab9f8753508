"""A job that ran more than once: the newest result stays, and nothing of the older ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from playground.callback_receiver import CallbackReceiver
from shared.contract.callback import CompletedPayload, FailedPayload, to_json
from shared.contract.request import Identity
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.outbox_keys import EntryKeys
from shared.jobs.delivery.redelivery import Redelivery, RedeliveryResult
from shared.jobs.delivery.stored_results import remove_older
from shared.settings import Settings
from shared.storage import open_storage
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import ListedObject, Storage
from shared.webhooks import Webhook
from tests.doubles.fake_storage import FakeStorage, fails_with
from tests.doubles.s3_server import FaultProxy
from tests.shared.contract import payloads

KEY = "sb_secret_canary"
SECRET = "canary-callback-secret"
IDENTITY = Identity("J", "U", "sdxl_generate", None, "run-1")
START = datetime(2026, 1, 1, tzinfo=UTC)


class StorageUnderTest:
    """One storage under test: where a run has stored a file at a given time, and what is there."""

    def __init__(self, storage: Storage, folder: Path, server: FakeStorage | FaultProxy | None) -> None:
        self.storage = storage
        self._folder = folder
        self._server = server

    def put(self, name: str, content: bytes, *, minute: float) -> str:
        """Stores a file as a run of the job has done it then. Returns its hash."""
        key, moment = f"U/J/{name}", (START + timedelta(minutes=minute)).timestamp()
        stored = self.storage.put(key, content, "image/png")
        if self._server is None:
            os.utime(self._folder / key, (moment, moment))
        elif isinstance(self._server, FaultProxy):
            self._server.set_time(key, moment)
        else:
            object.__setattr__(self._server.objects[key], "updated_at", moment)
        return stored.sha256

    @property
    def names(self) -> list[str]:
        return sorted(each.key.removeprefix("U/J/") for each in self.storage.list_objects("U", "J"))

    def content(self, name: str) -> bytes:
        if self._server is None:
            return (self._folder / "U/J" / name).read_bytes()
        found = self._server.objects[f"U/J/{name}"]
        return found if isinstance(found, bytes) else found.content


@pytest.fixture(params=["disk", "supabase", "s3"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageUnderTest]:
    if request.param == "disk":
        yield StorageUnderTest(LocalDisk(tmp_path / "out"), tmp_path / "out", None)
        return
    if request.param == "s3":
        proxy: FaultProxy = request.getfixturevalue("s3")
        yield StorageUnderTest(open_storage(proxy.settings()), tmp_path, proxy)
        return
    with FakeStorage(KEY) as server:
        settings = Settings(supabase_url=server.url, supabase_key=SecretStr(KEY))
        yield StorageUnderTest(open_storage(settings), tmp_path, server)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", EntryKeys(), max_bytes=100_000, max_age=3600.0)


def times(minute: float) -> dict[str, Any]:
    """A run of one minute that has ended then."""
    return {"completed_at": START + timedelta(minutes=minute), "processing_time": 60.0}


def completed(minute: float, *names: str) -> CompletedPayload:
    run = times(minute)
    assets = [payloads.image(index, url=f"U/J/{name}", temp_storage_path=f"U/J/{name}") for index, name in enumerate(names)]
    made = payloads.completed(*assets, metadata=payloads.SDXL | {"processing_time": run["processing_time"]})
    return made.model_copy(update={"completed_at": run["completed_at"]})


def failed(minute: float) -> FailedPayload:
    made, run = payloads.failed(), times(minute)
    return made.model_copy(
        update={
            "completed_at": run["completed_at"],
            "metadata": made.metadata.model_copy(update={"processing_time": run["processing_time"]}),
        }
    )


def redelivery(outbox: Outbox, stored: StorageUnderTest, receiver: CallbackReceiver) -> Redelivery:
    settings = Settings(job_callback_url=receiver.url, job_callback_secret=SecretStr(SECRET))
    return Redelivery(outbox, stored.storage, Webhook(settings))


def keep(outbox: Outbox, payload: CompletedPayload | FailedPayload, files: dict[str, bytes], had: dict[str, str] | None = None) -> None:
    writer = outbox.writer(IDENTITY)
    for name, content in files.items():
        writer.add(f"U/J/{name}", content, "image/png")
    writer.commit(IDENTITY, payload, webhook_id="msg_1", calls_back=True, stored=had or {})


@pytest.mark.parametrize("newer", [{"0.png": b"newer"}, {"0.webp": b"newer"}, {"0.png": b"newer", "1.png": b"more"}])
def test_a_late_result_never_overwrites_a_newer_one(outbox: Outbox, stored: StorageUnderTest, newer: dict[str, bytes]) -> None:
    keep(outbox, completed(10, "0.png"), {"0.png": b"late"})
    for name, content in newer.items():
        stored.put(name, content, minute=20)
    with CallbackReceiver(SECRET) as receiver:
        assert redelivery(outbox, stored, receiver).run() == RedeliveryResult(delivered=1)
        assert receiver.messages == []
    assert {name: stored.content(name) for name in stored.names} == newer
    assert outbox.pending() == []


def test_a_newer_result_counts_even_if_the_late_one_ended_after_it(outbox: Outbox, stored: StorageUnderTest) -> None:
    keep(outbox, completed(10, "0.png"), {"0.png": b"late"})
    stored.put("0.png", b"newer", minute=9.5)
    with CallbackReceiver(SECRET) as receiver:
        redelivery(outbox, stored, receiver).run()
        assert receiver.messages == []
    assert stored.content("0.png") == b"newer"


def test_a_late_result_replaces_an_older_one_and_its_files_of_another_format_or_number(outbox: Outbox, stored: StorageUnderTest) -> None:
    for name in ("0.webp", "0.thumb.webp", "1.png", "2.png", "callback.json", "notes.txt"):
        stored.put(name, b"older", minute=5)
    keep(outbox, completed(10, "0.png"), {"0.png": b"late", "0.thumb.webp": b"late"})
    with CallbackReceiver(SECRET) as receiver:
        assert redelivery(outbox, stored, receiver).run() == RedeliveryResult(delivered=1)
        assert [payload["status"] for payload in receiver.payloads] == ["completed"]
    assert [name for name in stored.names if name != "callback.json"] == ["0.png", "0.thumb.webp", "notes.txt"]
    assert stored.content("0.png") == stored.content("0.thumb.webp") == b"late"


def test_files_that_the_run_has_stored_itself_are_not_a_newer_result(outbox: Outbox, stored: StorageUnderTest) -> None:
    had = {"U/J/0.png": stored.put("0.png", b"late", minute=9.9)}
    stored.put("1.png", b"late, too", minute=30)
    keep(outbox, completed(10, "0.png", "1.png"), {"1.png": b"late, too"}, had)
    with CallbackReceiver(SECRET) as receiver:
        assert redelivery(outbox, stored, receiver).run() == RedeliveryResult(delivered=1)
        assert len(receiver.messages) == 1


@pytest.mark.parametrize("content", [b"same", b"newer"])
@pytest.mark.parametrize("payload", [completed(10, "0.png"), failed(10)], ids=["completed", "failed"])
def test_a_late_callback_is_dropped_if_there_is_a_newer_result(
    outbox: Outbox, stored: StorageUnderTest, payload: CompletedPayload | FailedPayload, content: bytes
) -> None:
    had = {"U/J/0.png": stored.put("0.png", b"same", minute=9.9)}
    stored.put("0.png", content, minute=20)
    keep(outbox, payload, {}, had)
    with CallbackReceiver(SECRET) as receiver:
        assert redelivery(outbox, stored, receiver).run() == RedeliveryResult(delivered=1)
        assert len(receiver.messages) == (content == b"same"), "an equal result is the same one"


def test_without_the_comparison_nothing_is_delivered(outbox: Outbox, tmp_path: Path) -> None:
    with FakeStorage(KEY) as server, CallbackReceiver(SECRET) as receiver, stamina.set_testing(True, attempts=3):
        storage = open_storage(Settings(supabase_url=server.url, supabase_key=SecretStr(KEY)))
        keep(outbox, completed(10, "0.png"), {})
        late = redelivery(outbox, StorageUnderTest(storage, tmp_path, server), receiver)
        server.outage = fails_with(503)
        assert late.run() == RedeliveryResult(pending=1)
        server.outage = fails_with(404)
        assert late.run() == RedeliveryResult(delivered=1), "a bucket that is gone holds nothing newer"


def test_a_completed_job_removes_what_an_earlier_run_has_left(stored: StorageUnderTest) -> None:
    for name in ("0.webp", "0.thumb.webp", "1.png", "1.poster.png", "callback.json"):
        stored.put(name, b"older", minute=5)
    stored.put("0.png", b"this", minute=9.9)
    stored.put("2.png", b"of a newer run", minute=10)
    with ThreadPoolExecutor(1) as threads:
        dispatcher = CallbackDispatcher(stored.storage, Webhook(Settings()), threads, always_callback=True, send_processing=False)
        assert asyncio.run(dispatcher.dispatch(completed(10, "0.png"), IDENTITY))
        assert asyncio.run(dispatcher.dispatch(failed(30), IDENTITY)), "a failure removes nothing"
    assert stored.names == ["0.png", "0.thumb.webp", "2.png", "callback.json"]


def test_a_file_that_may_be_newer_by_a_rounded_time_is_not_removed(tmp_path: Path) -> None:
    disk, started = LocalDisk(tmp_path), (START + timedelta(minutes=9)).timestamp()
    listed = []
    for name, modified, rounded_by in (("1.png", -0.5, 0.0), ("2.png", -0.5, 1.0), ("3.png", -1.5, 1.0)):
        disk.put(f"U/J/{name}", b"other", "image/png")
        listed.append(ListedObject(f"U/J/{name}", started + modified, rounded_by))
    remove_older(disk, listed, to_json(completed(10, "0.png")), ["U/J/0.png"])
    assert [each.key for each in disk.list_objects("U", "J")] == ["U/J/2.png"]


def test_a_success_triggers_the_delivery_of_what_waits(outbox: Outbox, stored: StorageUnderTest) -> None:
    keep(outbox, completed(10, "0.png"), {"0.png": b"late"})
    other = Identity("other", "U", "sdxl_generate", None, "run-2")
    with CallbackReceiver(SECRET) as receiver, ThreadPoolExecutor(1) as threads:
        late = redelivery(outbox, stored, receiver)
        dispatcher = CallbackDispatcher(
            stored.storage, late._webhook, threads, always_callback=True, send_processing=False, outbox=outbox, on_delivered=late.run
        )
        assert asyncio.run(dispatcher.dispatch(failed(11), other))
        assert len(outbox.pending()) == 1, "a failure says nothing about storage"
        assert asyncio.run(dispatcher.dispatch(completed(12).model_copy(update={"job_id": "other"}), other))
        assert outbox.pending() == []
