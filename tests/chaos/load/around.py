"""Everything around a worker under load: receivers, and storage whose uploads are slow and are answered in another order."""

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

from playground.callback_receiver import Inbox, Message
from tests.doubles.gateway import Gateway
from tests.doubles.storage_server import Handler, StorageServer
from tests.doubles.worker import WorkerProcess
from tests.shared.serverless.conftest import SECRET, Loop, started

KEY = "canary-service-key"
PATIENCE = 60.0
Job = dict[str, Any]


class Uploads:
    """How storage takes uploads: each after a pause of its own, so that they are answered in another order than they came in.

    Attributes:
        longest: Seconds of the longest pause.
        begun: The jobs of the uploads that came in, in order.
        refused: Jobs whose uploads are answered with 403, for good.
        refused_once: The same for one upload of a job.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.begun: list[str] = []
        self.refused: frozenset[str] = frozenset()
        self.refused_once = ""
        self._held: set[str] = set()
        self._changed = Condition()

    def hold(self, *job_ids: str) -> None:
        """Answers no upload of these jobs until they are let go."""
        with self._changed:
            self._held.update(job_ids)

    def let_go(self, *job_ids: str) -> None:
        """Answers the uploads of these jobs; of all, when none is named."""
        with self._changed:
            self._held = self._held - set(job_ids) if job_ids else set()
            self._changed.notify_all()

    def wait_for(self, job_id: str) -> None:
        """Returns when an upload of a job has come in."""
        with self._changed:
            assert self._changed.wait_for(lambda: job_id in self.begun, PATIENCE), f"nothing of {job_id} was uploaded"

    def __call__(self, upload: Handler) -> None:
        if upload.command == "GET":
            upload.look_up()
            return
        key = upload.path.rpartition("/workspace-temp/")[2]
        job_id = key.split("/")[1]
        with self._changed:
            self.begun.append(job_id)
            self._changed.notify_all()
            self._changed.wait_for(lambda: job_id not in self._held, PATIENCE)
        if job_id in self.refused or self.refused_once == job_id:
            self.refused_once = ""
            upload.read_body()
            upload.refuse(403, "Unauthorized", "new row violates row-level security policy")
            return
        time.sleep(self.longest * (zlib.crc32(key.encode()) % 100) / 100)
        upload.store()
        upload.answer(200, b'{"Key": "stored", "Id": "1"}')


@dataclass
class Around:
    """One worker, and all that it speaks to.

    Attributes:
        loop: The worker, the gateway and the receiver that is configured.
        storage: Where results go, and a host of pictures for references.
        uploads: How it takes them.
        inboxes: Receivers that jobs may ask for.
        module: What the worker runs.
        environment: What it is configured with.
    """

    loop: Loop
    storage: StorageServer
    uploads: Uploads
    inboxes: list[Inbox]
    module: str
    environment: dict[str, str]

    @property
    def receivers(self) -> list[Inbox]:
        """The one that is configured, and those that jobs may ask for."""
        return [self.loop.inbox, *self.inboxes]

    @property
    def outbox(self) -> Path:
        return self.loop.worker.folder / "volume" / "outbox"

    def submit(self, *jobs: Job) -> None:
        """Hands out jobs, all at once."""
        for job in jobs:
            self.loop.gateway.submit(job)

    def output(self, job_id: str) -> Any:
        """Waits for the payload that RunPod gets of a job."""
        return self.loop.gateway.result(job_id, PATIENCE)["output"]

    def files(self, output: Any) -> list[str]:
        """The SHA-256 of every file that a payload names, as storage has them."""
        keys = [asset[name] for asset in output["assets"] for name in ("url", "thumbnail_url")]
        return [hashlib.sha256(self.storage.objects[key].content).hexdigest() for key in keys]

    def told(self, job_id: str) -> list[Message]:
        """The callbacks about a job, whoever got them."""
        messages = [message for inbox in self.receivers for message in inbox.messages]
        return [message for message in messages if message.payload["job_id"] == job_id]

    def wait_for_step_of(self, job_id: str, step: str) -> None:
        """Returns when a step of a job's life is done, as the log has it."""
        ends = time.monotonic() + PATIENCE
        while not any(f'"job_id": "{job_id}"' in line and f'"step": "{step}"' in line for line in self.loop.worker.log.splitlines()):
            assert time.monotonic() < ends, f"{step} of {job_id} was not done"
            time.sleep(0.02)

    @contextmanager
    def another_worker(self) -> Iterator[Gateway]:
        """A second worker with the same storage, receiver and volume, and a gateway of its own."""
        folder = self.loop.worker.folder / "another"
        folder.mkdir()
        with Gateway() as gateway, WorkerProcess(self.module, gateway, folder, self.environment):
            gateway.wait_for(lambda: bool(gateway.takes), what="the other worker's start")
            yield gateway

    def alone(self, job: Job) -> list[str]:
        """The files that a job makes when there is nothing else to do, under another id."""
        job_id = f"alone-{job['id']}"
        self.submit({"id": job_id, "input": {**job["input"], "id": job_id}})
        output = self.output(job_id)
        assert output["status"] == "completed", output["error_message"]
        return self.files(output)


@contextmanager
def around(folder: Path, module: str = "tests.doubles.paint", *, inboxes: int = 0, **environment: str) -> Iterator[Around]:
    """A worker under load; four jobs at once unless `environment` says otherwise."""
    with ExitStack() as stack:
        storage, uploads = stack.enter_context(StorageServer(KEY)), Uploads()
        asked = [stack.enter_context(Inbox(SECRET)) for _ in range(inboxes)]
        variables = {
            "SUPABASE_URL": storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": KEY,
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
            "OUTBOX_DIR": str(folder / "volume" / "outbox"),
            "JOB_CALLBACK_SECRET": SECRET,
            "JOB_CONCURRENCY": "4",
            **environment,
        }
        loop = stack.enter_context(started(folder, module, **variables))
        storage.outage = uploads
        variables |= {"JOB_CALLBACK_URL": loop.inbox.url}
        yield Around(loop, storage, uploads, asked, module, variables)
        uploads.let_go()
