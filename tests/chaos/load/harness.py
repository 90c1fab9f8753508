"""Harness for a worker under load: callback receivers, and storage whose uploads are slow and complete out of order."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from playground.callback_receiver import CallbackReceiver, ReceivedCallback
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.fake_storage import FakeStorage, Handler
from tests.doubles.worker import WorkerProcess
from tests.shared.serverless.conftest import SECRET, WorkerHarness, start_worker

KEY = "canary-service-key"
TIMEOUT = 60.0
Job = dict[str, Any]


class UploadControl:
    """Storage behaviour that delays, holds or rejects uploads by job.

    Attributes:
        max_delay: Upper bound of the delay in seconds. Each key has a delay of its own, so that uploads complete out of order.
        started: Job ids of the uploads that have arrived, in order.
        rejected: Jobs whose uploads fail with 403.
        rejected_once: A job whose next upload fails with 403.
    """

    def __init__(self) -> None:
        self.max_delay = 0.0
        self.started: list[str] = []
        self.rejected: frozenset[str] = frozenset()
        self.rejected_once = ""
        self._held: set[str] = set()
        self._changed = Condition()

    def hold(self, *job_ids: str) -> None:
        """Blocks the uploads of these jobs until they are released."""
        with self._changed:
            self._held.update(job_ids)

    def release(self, *job_ids: str) -> None:
        """Releases the uploads of these jobs, or of all jobs if none is named."""
        with self._changed:
            self._held = self._held - set(job_ids) if job_ids else set()
            self._changed.notify_all()

    def wait_for(self, job_id: str) -> None:
        """Waits for the first upload of a job to arrive."""
        with self._changed:
            assert self._changed.wait_for(lambda: job_id in self.started, TIMEOUT), f"no upload of {job_id} has arrived"

    def __call__(self, upload: Handler) -> None:
        """Serves one request."""
        if upload.command == "GET":
            upload.look_up()
            return
        key = upload.path.rpartition("/workspace-temp/")[2]
        job_id = key.split("/")[1]
        with self._changed:
            self.started.append(job_id)
            self._changed.notify_all()
            self._changed.wait_for(lambda: job_id not in self._held, TIMEOUT)
        if job_id in self.rejected or self.rejected_once == job_id:
            self.rejected_once = ""
            upload.read_body()
            upload.refuse(403, "Unauthorized", "new row violates row-level security policy")
            return
        time.sleep(self.max_delay * (zlib.crc32(key.encode()) % 100) / 100)
        upload.store()
        upload.respond(200, b'{"Key": "stored", "Id": "1"}')


@dataclass(frozen=True)
class LoadHarness(WorkerHarness):
    """A worker with its storage and receivers.

    Attributes:
        storage: Stores outputs, and serves reference images.
        uploads: Controls the uploads.
        job_receivers: Receivers that jobs may name in `callback_url`.
        module: Module of the worker.
        environment: Environment variables of the worker.
    """

    storage: FakeStorage
    uploads: UploadControl
    job_receivers: list[CallbackReceiver]
    module: str
    environment: dict[str, str]

    @property
    def receivers(self) -> list[CallbackReceiver]:
        """The configured receiver, and those that jobs may name."""
        return [self.receiver, *self.job_receivers]

    @property
    def outbox(self) -> Path:
        """`OUTBOX_DIR`."""
        return self.worker.folder / "volume" / "outbox"

    def submit(self, *jobs: Job) -> None:
        """Queues jobs at once."""
        for job in jobs:
            self.runpod_api.submit(job)

    def output(self, job_id: str) -> Any:
        """Waits for the payload of a job that RunPod receives."""
        return self.runpod_api.result(job_id, TIMEOUT)["output"]

    def file_hashes(self, output: Any) -> list[str]:
        """Returns the SHA-256 of each stored file that a payload names."""
        keys = [asset[name] for asset in output["assets"] for name in ("url", "thumbnail_url")]
        return [hashlib.sha256(self.storage.objects[key].content).hexdigest() for key in keys]

    def received_callbacks(self, job_id: str) -> list[ReceivedCallback]:
        """Returns the callbacks of a job at any receiver."""
        messages = [message for receiver in self.receivers for message in receiver.messages]
        return [message for message in messages if message.payload["job_id"] == job_id]

    def wait_for_logged_step(self, job_id: str, step: str, times: int = 1) -> None:
        """Waits until the log reports a step of the lifecycle of a job as done, in so many of its deliveries."""
        deadline, parts = time.monotonic() + TIMEOUT, (f'"job_id": "{job_id}"', f'"step": "{step}"')
        while sum(all(part in line for part in parts) for line in self.worker.log.splitlines()) < times:
            assert time.monotonic() < deadline, f"{job_id} has not logged {step}"
            time.sleep(0.02)

    @contextmanager
    def second_worker(self) -> Iterator[FakeRunPodAPI]:
        """Starts another worker with the same storage, receiver and volume, and a RunPod API of its own."""
        folder = self.worker.folder / "second"
        folder.mkdir()
        with FakeRunPodAPI() as runpod_api, WorkerProcess(self.module, runpod_api, folder, self.environment):
            runpod_api.wait_for(lambda: bool(runpod_api.takes), what="the start of the second worker")
            yield runpod_api

    def hashes_alone(self, job: Job) -> list[str]:
        """Runs a job under another id while no other job runs, and returns the hashes of its files."""
        job_id = f"alone-{job['id']}"
        self.submit({"id": job_id, "input": {**job["input"], "id": job_id}})
        output = self.output(job_id)
        assert output["status"] == "completed", output["error_message"]
        return self.file_hashes(output)


@contextmanager
def start_load_harness(
    folder: Path, module: str = "tests.doubles.stub_worker", *, job_receivers: int = 0, **environment: str
) -> Iterator[LoadHarness]:
    """Starts a worker with up to four jobs in flight, unless `environment` says otherwise."""
    with ExitStack() as stack:
        storage, uploads = stack.enter_context(FakeStorage(KEY)), UploadControl()
        receivers = [stack.enter_context(CallbackReceiver(SECRET)) for _ in range(job_receivers)]
        variables = {
            "SUPABASE_URL": storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": KEY,
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
            "OUTBOX_DIR": str(folder / "volume" / "outbox"),
            "JOB_CALLBACK_SECRET": SECRET,
            "JOB_CONCURRENCY": "4",
            **environment,
        }
        base = stack.enter_context(start_worker(folder, module, **variables))
        storage.outage = uploads
        variables |= {"JOB_CALLBACK_URL": base.receiver.url}
        yield LoadHarness(base.runpod_api, base.receiver, base.worker, storage, uploads, receivers, module, variables)
        uploads.release()
