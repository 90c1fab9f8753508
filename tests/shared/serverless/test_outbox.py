"""Storage or the receiver is unavailable for a whole job: the result is delivered later, and is the same."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playground.callback_receiver import CallbackReceiver, CannedResponse
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.fake_storage import FakeStorage, fails_with
from tests.doubles.jobs import PROMPT_CANARY, sdxl_job, webhook_id
from tests.doubles.processes import clean_environment, run_module
from tests.doubles.worker import WorkerProcess
from tests.shared.serverless.conftest import SECRET, WorkerHarness

KEY = "canary-service-key"
NO_STORAGE, NO_RECEIVER = {"UPLOAD_DEADLINE": "1"}, {"CALLBACK_DEADLINE": "1"}
"""Settings of a process for which storage, or the receiver, is unavailable: it gives up soon."""
TOKEN = "canary-url-token"


@contextmanager
def project(tmp_path: Path, *responses: CannedResponse) -> Iterator[tuple[FakeStorage, CallbackReceiver, dict[str, str]]]:
    """A Supabase project, a callback receiver and the environment of the workers, whose outbox outlives them."""
    with FakeStorage(KEY) as storage, CallbackReceiver(SECRET, responses=responses) as receiver:
        environment = {
            "SUPABASE_URL": storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": KEY,
            "JOB_CALLBACK_URL": f"{receiver.url}?token={TOKEN}",
            "JOB_CALLBACK_SECRET": SECRET,
            "OUTBOX_DIR": str(tmp_path / "volume" / "outbox"),
        }
        yield storage, receiver, environment


@contextmanager
def worker(folder: Path, receiver: CallbackReceiver, environment: dict[str, str]) -> Iterator[WorkerHarness]:
    folder.mkdir()
    with FakeRunPodAPI() as runpod_api, WorkerProcess("tests.doubles.stub_worker", runpod_api, folder, environment) as process:
        runpod_api.wait_for(lambda: bool(runpod_api.takes), what="the start of the worker")
        yield WorkerHarness(runpod_api, receiver, process)


def run_job(harness: WorkerHarness, job: dict[str, Any]) -> dict[str, Any]:
    harness.runpod_api.submit(job)
    output: dict[str, Any] = harness.runpod_api.result(job["id"])["output"]
    return output


def redeliver(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run_module("shared.redeliver", folder=folder, environment=clean_environment(**environment))


def test_result_that_storage_refused_is_delivered_by_the_next_start(tmp_path: Path) -> None:
    with project(tmp_path) as (storage, receiver, environment):
        with worker(tmp_path / "one", receiver, environment | NO_STORAGE) as harness:
            storage.outage = fails_with(503)
            output = run_job(harness, sdxl_job("kept", num_images=3))
        assert (output["status"], output["metadata"]["error_code"], output["assets"]) == ("failed", "UPLOAD_ERROR", [])
        names = [f"user-1/kept/{index}.{ending}" for index in range(3) for ending in ("png", "thumb.webp")]
        assert output["metadata"].get("assets_pending") == names
        assert storage.objects == {}
        assert redeliver(tmp_path, environment | NO_STORAGE).returncode == 1, "storage is still unavailable"
        assert len(receiver.messages) == 1, "no callback before the files are stored"
        storage.outage = None
        with worker(tmp_path / "two", receiver, environment) as harness:
            failed, completed = receiver.wait_for(2)
            again = run_job(harness, sdxl_job("kept-not", num_images=3))
        assert failed.payload == output, "the failure was reported at once"
        assert completed.verified
        assert completed.headers["webhook-id"] == webhook_id("kept", "completed")
        assert [asset["url"] for asset in completed.payload["assets"]] == [f"user-1/kept/{index}.png" for index in range(3)]
        assert sorted(key for key in storage.objects if "/kept/" in key) == sorted(names)
        for asset, twin in zip(completed.payload["assets"], again["assets"], strict=True):
            stored = storage.objects[asset["url"]]
            assert stored.content == storage.objects[twin["url"]].content, "the same image as without an outage"
            assert stored.metadata["sha256"] == hashlib.sha256(stored.content).hexdigest()
            assert stored.content_type == asset["mime_type"]
    assert list((tmp_path / "volume/outbox").iterdir()) == []


def test_callback_that_was_not_accepted_is_delivered_by_the_redeliver_command(tmp_path: Path) -> None:
    with project(tmp_path, *[CannedResponse(503)] * 50) as (storage, receiver, environment):
        with worker(tmp_path / "one", receiver, environment | NO_RECEIVER) as harness:
            output = run_job(harness, sdxl_job("late"))
        assert output.pop("callback_pending") is True
        assert output["status"] == "completed"
        assert all(asset["url"] in storage.objects for asset in output["assets"])
        assert redeliver(tmp_path, environment | NO_RECEIVER).returncode == 1, "the receiver is still unavailable"
        before = len(receiver.messages)
        receiver.recover()
        done = redeliver(tmp_path, environment)
        assert done.returncode == 0, done.stderr
        (message,) = receiver.messages[before:]
        assert message.verified
        assert message.payload == output, "the same payload as RunPod got"
        assert {each.headers["webhook-id"] for each in receiver.messages} == {webhook_id("late", "completed")}
        assert {each.body for each in receiver.messages} == {message.body}
        assert redeliver(tmp_path, environment).returncode == 0, "nothing is pending any more"
        assert len(receiver.messages) == before + 1


def test_permanently_refused_callback_stays_pending(tmp_path: Path) -> None:
    refusals = (404, 401, 301)
    with project(tmp_path, *map(CannedResponse, refusals)) as (_, receiver, environment):
        with worker(tmp_path / "one", receiver, environment) as harness:
            assert all(run_job(harness, sdxl_job(f"refused-{status}"))["callback_pending"] for status in refusals)
        assert redeliver(tmp_path, environment).returncode == 0
        assert [message.payload["job_id"] for message in receiver.messages] == 2 * [f"refused-{status}" for status in refusals]


def test_pending_result_is_delivered_rather_than_its_failure(tmp_path: Path) -> None:
    with project(tmp_path, *[CannedResponse(reset=True)] * 50) as (storage, receiver, environment):
        with worker(tmp_path / "one", receiver, environment | NO_STORAGE | NO_RECEIVER) as harness:
            storage.outage = fails_with(544)
            output = run_job(harness, sdxl_job("both"))
        assert output["metadata"]["error_code"] == "UPLOAD_ERROR"
        assert output["callback_pending"] is True
        storage.outage = None
        receiver.recover()
        before = len(receiver.messages)
        assert redeliver(tmp_path, environment).returncode == 0
        (message,) = receiver.messages[before:]
        assert message.payload["status"] == "completed"
        assert set(storage.objects) == set(output["metadata"]["assets_pending"])


def test_completed_repetition_discards_the_pending_result(tmp_path: Path) -> None:
    with (
        project(tmp_path) as (storage, receiver, environment),
        worker(tmp_path / "one", receiver, environment | {"UPLOAD_DEADLINE": "6"}) as harness,  # as short for what succeeds
    ):
        storage.outage = fails_with(503)
        assert run_job(harness, sdxl_job("twice"))["status"] == "failed"
        assert len(list((tmp_path / "volume/outbox").iterdir())) == 1
        storage.outage = None
        harness.runpod_api.submit(sdxl_job("twice"))
        harness.runpod_api.wait_for(lambda: len(harness.runpod_api.results("twice")) == 2)
        assert harness.runpod_api.results("twice")[1]["output"]["status"] == "completed"
        assert list((tmp_path / "volume/outbox").iterdir()) == []


def test_outbox_and_log_contain_no_secrets(tmp_path: Path) -> None:
    with project(tmp_path, *[CannedResponse(503)] * 50) as (storage, receiver, environment):
        with worker(tmp_path / "one", receiver, environment | NO_STORAGE | NO_RECEIVER) as harness:
            storage.outage = fails_with(503)
            run_job(harness, sdxl_job("secret"))
            log = harness.worker.log
        log += "".join(redeliver(tmp_path, environment | NO_STORAGE | NO_RECEIVER).stdout)
        files = [path for path in (tmp_path / "volume/outbox").rglob("*") if path.is_file()]
        assert files
        for canary in (KEY, SECRET, TOKEN, PROMPT_CANARY):
            assert canary not in log
            assert all(canary.encode() not in path.read_bytes() for path in files)
