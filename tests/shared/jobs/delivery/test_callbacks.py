"""CallbackDispatcher: processing and final callbacks, `callback.json`, and unavailable receivers."""

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
from playground.callback_receiver import CallbackReceiver, CannedResponse, ReceivedCallback
from shared.contract.request import Operator
from shared.errors import UploadError
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, Worker, run_job
from shared.jobs.recipe import JobRun, Output
from shared.settings import Settings
from shared.webhooks import Webhook
from tests.doubles.jobs import webhook_id
from tests.shared.jobs.conftest import MakeWorker, ObservedDisk, image_output, job, run

SECRET = "a-secret-for-tests"
TIMEOUT = 60.0


def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield image_output()


def with_callbacks(worker: Worker[SdxlRequest], receiver: CallbackReceiver, **overrides: Any) -> Worker[SdxlRequest]:
    """Returns the worker with callbacks to a receiver, which a request may also name as its `callback_url`."""
    settings = Settings(job_callback_url=receiver.url, job_callback_secret=SecretStr(SECRET), callback_allowed_hosts=("127.0.0.1",))
    options = {"always_callback": True, "send_processing": False} | overrides
    callbacks = CallbackDispatcher(worker.storage, Webhook(settings), ThreadPoolExecutor(1), **options)
    callbacks.best_effort_seconds = TIMEOUT
    return replace(worker, callbacks=callbacks, operator=Operator(callback_hosts=frozenset({"127.0.0.1"})))


def statuses(receiver: CallbackReceiver) -> list[str]:
    return [payload["status"] for payload in receiver.payloads]


def test_processing_callback_is_optional_and_precedes_the_final_one(make_worker: MakeWorker) -> None:
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(), with_callbacks(make_worker(generate), receiver, send_processing=True), run()))
        assert statuses(receiver) == ["processing", "completed"]
        assert len({message.headers["webhook-id"] for message in receiver.messages}) == 2
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(), with_callbacks(make_worker(generate), receiver), run()))
        assert statuses(receiver) == ["completed"]


def test_job_cancelled_during_its_processing_callback_never_starts(make_worker: MakeWorker) -> None:
    generated: list[int] = []

    def generate_and_count(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        generated.append(1)
        yield image_output()

    arrived, cancelled = threading.Event(), threading.Event()

    def hold(_message: ReceivedCallback) -> None:
        arrived.set()
        assert cancelled.wait(TIMEOUT)

    async def cancel_early() -> object:
        task = asyncio.ensure_future(run_job(job(), worker, run()))
        await asyncio.to_thread(arrived.wait, TIMEOUT)
        task.cancel()
        await asyncio.sleep(0)  # the cancellation reaches the task
        cancelled.set()
        return await task

    with CallbackReceiver(SECRET, on_callback=hold) as receiver:
        worker = with_callbacks(make_worker(generate_and_count), receiver, send_processing=True)
        assert isinstance(asyncio.run(cancel_early()), Stopped)
        assert generated == []
        assert statuses(receiver) == ["processing", "failed"]


def test_cancelled_job_gives_up_early_on_an_unavailable_receiver(make_worker: MakeWorker) -> None:
    started = threading.Event()

    def generate_until_cancelled(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        started.set()
        while not threading.Event().wait(0.01):
            run.cancel.check()
        yield image_output()

    async def cancel() -> object:
        task = asyncio.ensure_future(run_job(job(), worker, run()))
        await asyncio.to_thread(started.wait, TIMEOUT)
        task.cancel()
        return await task

    with CallbackReceiver(SECRET, responses=[CannedResponse(503)] * 20) as receiver, stamina.set_testing(True, attempts=10, cap=True):
        worker = with_callbacks(make_worker(generate_until_cancelled), receiver)
        assert isinstance(asyncio.run(cancel()), Stopped)
        assert len(receiver.messages) == 2


def test_webhook_id_is_a_hash_of_user_job_runpod_id_and_status(make_worker: MakeWorker) -> None:
    with CallbackReceiver(SECRET) as receiver:
        worker = with_callbacks(make_worker(generate), receiver)
        asyncio.run(run_job(Job("sync.1", None), worker, run()))
        asyncio.run(run_job(Job("run-1", job("a-job").input), worker, run()))
        nameless, completed = receiver.messages
        assert nameless.verified
        assert nameless.headers["webhook-id"] == webhook_id("sync.1", "failed", user_id="")
        assert nameless.payload["job_id"] == nameless.payload["metadata"]["runpod_id"] == "sync.1"
        assert completed.headers["webhook-id"] == webhook_id("a-job", "completed", runpod_id="run-1")
        assert completed.payload["metadata"]["runpod_id"] == "run-1"


def test_every_callback_names_the_attempt(make_worker: MakeWorker) -> None:
    with CallbackReceiver(SECRET) as receiver:
        worker = with_callbacks(make_worker(generate), receiver, send_processing=True)
        for attempt, steps in (("run-1", 10), ("run-1", 10), ("run-2", 10), ("run-3", 99)):
            asyncio.run(run_job(Job(attempt, job("a-job", steps=steps).input), worker, run()))
        attempts = [(each["metadata"]["runpod_id"], each["status"]) for each in receiver.payloads]
        both = ["processing", "completed"]
        assert attempts == [(each, status) for each in ("run-1", "run-1", "run-2") for status in both] + [("run-3", "failed")]
        ids = [message.headers["webhook-id"] for message in receiver.messages]
        assert ids[:2] == ids[2:4], "a repeated delivery"
        assert len(set(ids)) == 5


def test_invalid_request_sends_no_processing_callback(make_worker: MakeWorker) -> None:
    with CallbackReceiver(SECRET) as receiver:
        asyncio.run(run_job(job(steps=99), with_callbacks(make_worker(generate), receiver, send_processing=True), run()))
        assert statuses(receiver) == ["failed"]


def test_processing_callback_is_attempted_once(make_worker: MakeWorker) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503)]) as receiver:
        outcome = asyncio.run(run_job(job(), with_callbacks(make_worker(generate), receiver, send_processing=True), run()))
        assert isinstance(outcome, Completed)
        assert statuses(receiver) == ["processing", "completed"], "one attempt for the first"


def test_unavailable_receiver_does_not_fail_a_completed_job(make_worker: MakeWorker, tmp_path: Path) -> None:
    with CallbackReceiver(SECRET, responses=[CannedResponse(503)] * 20) as receiver, stamina.set_testing(True, attempts=3):
        outcome = asyncio.run(run_job(job(), with_callbacks(make_worker(generate), receiver), run()))
        assert isinstance(outcome, Completed)
        assert len(receiver.messages) == 3
    stored = json.loads((tmp_path / "user-1/job/callback.json").read_bytes())
    assert stored["status"] == "completed"


@pytest.mark.parametrize(("named", "expected"), [(True, ["completed"]), (False, [])])
def test_without_always_callback_only_a_callback_url_is_called_back(make_worker: MakeWorker, named: bool, expected: list[str]) -> None:
    with CallbackReceiver(SECRET) as receiver:
        plain = job()
        assert isinstance(plain.input, dict)
        fields = plain.input | ({"callback_url": receiver.url} if named else {})
        asyncio.run(run_job(Job("job", fields), with_callbacks(make_worker(generate), receiver, always_callback=False), run()))
        assert statuses(receiver) == expected


def test_callback_is_sent_although_callback_json_was_not_stored(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    def refuse(key: str) -> None:
        if key.endswith("callback.json"):
            raise UploadError("Storage refused.")

    disk.before_put = refuse
    with CallbackReceiver(SECRET) as receiver:
        outcome = asyncio.run(run_job(job(), with_callbacks(make_worker(generate), receiver), run()))
        assert isinstance(outcome, Completed)
        assert statuses(receiver) == ["completed"]


def test_invalid_request_without_a_user_stores_nothing(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    outcome = asyncio.run(run_job(Job("job", {"id": "job", "user_id": "../other"}), make_worker(generate), run()))
    assert isinstance(outcome, Failed)
    assert disk.keys == []
