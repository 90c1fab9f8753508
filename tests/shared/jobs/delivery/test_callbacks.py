"""How a job's end reaches those who wait for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from handlers.sdxl.request import SdxlRequest
from playground.callback_receiver import CallbackReceiver, CannedResponse
from shared.contract.request import Operator
from shared.errors import UploadError
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, Worker, run_job
from shared.jobs.recipe import JobRun, Output
from shared.settings import Settings
from shared.webhooks import Webhook
from tests.shared.jobs.conftest import WatchedDisk, Workers, job, picture, run

SECRET = "a-secret-for-tests"


def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield picture()


def calling_back(worker: Worker[SdxlRequest], receiver: CallbackReceiver, **choices: Any) -> Worker[SdxlRequest]:
    """The worker with callbacks to an inbox, which it may also be asked for by a request."""
    settings = Settings(job_callback_url=receiver.url, job_callback_secret=SecretStr(SECRET), callback_allowed_hosts=("127.0.0.1",))
    options = {"always_callback": True, "send_processing": False} | choices
    callbacks = CallbackDispatcher(worker.storage, Webhook(settings), ThreadPoolExecutor(1), **options)
    return replace(worker, callbacks=callbacks, operator=Operator(callback_hosts=frozenset({"127.0.0.1"})))


def statuses(receiver: CallbackReceiver) -> list[str]:
    return [payload["status"] for payload in receiver.payloads]


def test_processing_callback_is_optional_and_precedes_the_final_one(worker: Workers) -> None:
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(), calling_back(worker(making), receiver, send_processing=True), run()))
        assert statuses(receiver) == ["processing", "completed"]
        assert len({message.headers["webhook-id"] for message in receiver.messages}) == 2
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(), calling_back(worker(making), receiver), run()))
        assert statuses(receiver) == ["completed"]


def test_job_cancelled_during_its_processing_callback_never_starts(worker: Workers) -> None:
    made: list[int] = []

    def counting(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        made.append(1)
        yield picture()

    async def stop_early() -> object:
        task = asyncio.ensure_future(run_job(job(), own, run()))
        await asyncio.to_thread(receiver.wait_for, 1)
        task.cancel()
        return await task

    with CallbackReceiver(SECRET, responses=[CannedResponse(delay=0.3)]) as receiver:
        own = calling_back(worker(counting), receiver, send_processing=True)
        assert isinstance(asyncio.run(stop_early()), Stopped)
        assert made == []
        assert statuses(receiver) == ["processing", "failed"]


def test_cancelled_job_gives_up_early_on_an_unavailable_receiver(worker: Workers) -> None:
    began = threading.Event()

    def endless(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        began.set()
        while not threading.Event().wait(0.01):
            run.cancel.check()
        yield picture()

    async def stop() -> object:
        task = asyncio.ensure_future(run_job(job(), own, run()))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        return await task

    with CallbackReceiver(SECRET, responses=[CannedResponse(503)] * 20) as receiver, stamina.set_testing(True, attempts=10, cap=True):
        own = calling_back(worker(endless), receiver)
        assert isinstance(asyncio.run(stop()), Stopped)
        assert len(receiver.messages) == 2


def test_webhook_id_replaces_invalid_characters_of_the_job_id(worker: Workers) -> None:
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(Job("sync.1", None), calling_back(worker(making), receiver), run()))
        (message,) = receiver.messages
        assert message.verified
        assert message.headers["webhook-id"] == "sync-1_failed"
        assert message.payload["job_id"] == "sync.1"


def test_invalid_request_sends_no_processing_callback(worker: Workers) -> None:
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(steps=99), calling_back(worker(making), receiver, send_processing=True), run()))
        assert statuses(receiver) == ["failed"]


def test_processing_callback_is_attempted_once(worker: Workers) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503)]) as receiver:
        end = asyncio.run(run_job(job(), calling_back(worker(making), receiver, send_processing=True), run()))
        assert isinstance(end, Completed)
        assert statuses(receiver) == ["processing", "completed"], "the start was tried once"


def test_unavailable_receiver_does_not_fail_a_completed_job(worker: Workers, tmp_path: Path) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503)] * 20) as receiver, stamina.set_testing(True, attempts=3):
        end = asyncio.run(run_job(job(), calling_back(worker(making), receiver), run()))
        assert isinstance(end, Completed)
        assert len(receiver.messages) == 3
    stored = json.loads((tmp_path / "user-1/job/callback.json").read_bytes())
    assert stored["status"] == "completed", "the payload lies beside the assets"


@pytest.mark.parametrize(("asked", "expected"), [(True, ["completed"]), (False, [])])
def test_without_always_callback_only_a_callback_url_is_called_back(worker: Workers, asked: bool, expected: list[str]) -> None:
    with CallbackReceiver(SECRET) as receiver:
        wanted = job()
        assert isinstance(wanted.input, dict)
        fields = wanted.input | ({"callback_url": receiver.url} if asked else {})
        asyncio.run(run_job(Job("job", fields), calling_back(worker(making), receiver, always_callback=False), run()))
        assert statuses(receiver) == expected


def test_callback_is_sent_although_callback_json_was_not_stored(worker: Workers, disk: WatchedDisk) -> None:
    def refuse(key: str) -> None:
        if key.endswith("callback.json"):
            raise UploadError("Storage refused.")

    disk.before_put = refuse
    with CallbackReceiver(SECRET) as receiver:
        end = asyncio.run(run_job(job(), calling_back(worker(making), receiver), run()))
        assert isinstance(end, Completed)
        assert statuses(receiver) == ["completed"]


def test_invalid_request_without_a_user_stores_nothing(worker: Workers, disk: WatchedDisk) -> None:
    end = asyncio.run(run_job(Job("job", {"id": "job", "user_id": "../other"}), worker(making), run()))
    assert isinstance(end, Failed)
    assert disk.keys == []
