"""Everything around the workers, and what was done with them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import trustme

from playground.callback_receiver import Answer, Inbox, Message
from shared.jobs.delivery.outbox_entry import MANIFEST
from tests.chaos.faults.running import Running
from tests.doubles.gateway import Gateway
from tests.doubles.storage_server import StorageServer
from tests.doubles.worker import WorkerProcess, clean_environment

SERVICE_KEY = "canary-service-key"
CALLBACK_SECRET = "canary-callback-secret-0123456789"
URL_TOKEN = "canary-url-token"
PROMPT = "canary-prompt-heron-over-the-bay"
NEGATIVE = "canary-negative-prompt-fog"

# Enough for retries, and little enough that a test waits for no receiver that stays away.
DEADLINES = {"UPLOAD_DEADLINE": "5", "CALLBACK_DEADLINE": "2", "REFERENCE_DEADLINE": "1.5", "REFERENCE_MAX_BYTES": str(2 * 1024**2)}


class World:
    """Storage, a receiver of callbacks, and a worker for each handler, started when it is first used.

    Args:
        folder: For everything that they write.
        models: What serves as `MODELS_DIR`.
        environment: What every worker is configured with beside the usual.

    Attributes:
        authority: Whose certificates the workers believe, and no others.
        on_callback: Called with each callback as it arrives, before it is kept and answered.
        newest: The process that was started last; it may still be starting.
    """

    def __init__(self, folder: Path, models: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.models.mkdir()
        for each in models.iterdir():
            (self.models / each.name).symlink_to(each)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        self._stack = ExitStack()
        self.storage = self._stack.enter_context(StorageServer(SERVICE_KEY))
        self.on_callback: Callable[[Message], None] = _nothing
        self.inbox = self._stack.enter_context(Inbox(CALLBACK_SECRET, on_message=lambda message: self.on_callback(message)))
        self._environment = environment or {}
        self.newest: WorkerProcess | None = None
        self._workers: dict[str, Running] = {}
        self._started = 0
        self._ended: list[Running] = []

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    @property
    def outbox(self) -> Path:
        """The folder that outlives the workers."""
        return self.folder / "volume" / "outbox"

    def waiting(self) -> list[str]:
        """What the outbox says of each result in it, without those that a worker delivers meanwhile."""
        said = []
        for entry in self.outbox.iterdir() if self.outbox.is_dir() else ():
            with suppress(FileNotFoundError, NotADirectoryError):
                said.append((entry / MANIFEST).read_text(errors="replace"))
        return said

    def environment(self, handler: str) -> dict[str, str]:
        """What a worker is configured with."""
        return {
            **DEADLINES,
            "FAULTS_HANDLER": handler,
            "FAULTS_AUTHORITY": str(self.folder / "authority.pem"),
            "SUPABASE_URL": self.storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "JOB_CALLBACK_URL": f"{self.inbox.url}?token={URL_TOKEN}",
            "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
            "OUTBOX_DIR": str(self.outbox),
            "MODELS_DIR": str(self.models),
            "DEVICE": "cpu",
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",  # chat calls back only who was asked for
            # The SDK counts a job that waits for its turn twice, and rests for a second before each one that it has no room for.
            "JOB_CONCURRENCY": "3",
            **self._environment,
        }

    def worker(self, handler: str = "sdxl") -> Running:
        """The worker of a handler that all cases share."""
        if handler not in self._workers:
            self._workers[handler] = self._stack.enter_context(self.own_worker(handler))
        return self._workers[handler]

    def forget(self, handler: str) -> None:
        """Lets the next job of a handler have a new worker, because this one has ended."""
        self._workers.pop(handler, None)

    @contextmanager
    def own_worker(self, handler: str = "sdxl", module: str = "tests.chaos.faults.worker", **environment: str) -> Iterator[Running]:
        """A worker for one case, which may end it."""
        self._started += 1
        folder = self.folder / f"{handler}-{self._started}"
        (folder / "tmp").mkdir(parents=True)
        variables = self.environment(handler) | {
            "TMPDIR": str(folder / "tmp"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # torch's own, and for the life of the process
            **environment,
        }
        with Gateway() as gateway, WorkerProcess(module, gateway, folder, variables) as process:
            self.newest = process
            while not gateway.takes and process.process.poll() is None:
                time.sleep(0.05)
            running = Running(handler, process, gateway)
            yield running
            self._ended.append(running)

    def take_ended(self) -> list[Running]:
        """The workers of a case's own that have come to their end since this was last asked."""
        ended, self._ended = self._ended, []
        return ended

    def do(self, job: dict[str, Any], *, refused: bool = False, handler: str = "sdxl") -> dict[str, Any]:
        """Has a job done by the shared worker of a handler."""
        return self.worker(handler).do(job, refused=refused)

    def redeliver(self) -> int:
        """Runs the command that delivers what waits, and returns its exit code."""
        command = [sys.executable, "-m", "shared.redeliver"]
        environment = clean_environment(**self.environment("sdxl"))
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False).returncode

    def answers(self, *answers: Answer) -> None:
        """Lets the receiver answer so, one after the other."""
        self.inbox.answer_with(answers)

    def calm(self) -> None:
        """Takes every fault off again."""
        self.storage.recover()
        self.inbox.recover()
        self.on_callback = _nothing
        for running in self._workers.values():
            for name in ("sabotage.json", "names.json", "routes.json"):
                (running.folder / name).unlink(missing_ok=True)

    def settle(self, seconds: float = 10.0) -> None:
        """Waits until every shared worker has put its temporary files away."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and any(any(running.temporary.iterdir()) for running in self._workers.values()):
            time.sleep(0.05)


def sdxl(job_id: str, *, prompt: str = PROMPT, **config: Any) -> dict[str, Any]:
    """A small SDXL job."""
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    return {
        "id": job_id,
        "input": {
            "id": job_id,
            "user_id": "user-1",
            "type": "sdxl_image_fast",
            "prompt": prompt,
            "negative_prompt": NEGATIVE,
            "config": settings,
        },
    }


def wan(job_id: str, **config: Any) -> dict[str, Any]:
    """A small clip."""
    settings = {"width": 64, "height": 64, "frames": 6, "fps": 8, "steps": 3, "seed": 7} | config
    return {
        "id": job_id,
        "input": {
            "id": job_id,
            "user_id": "user-1",
            "type": "video_fast",
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "config": settings,
        },
    }


def chat(job_id: str, callback_url: str, **fields: Any) -> dict[str, Any]:
    """A short answer, which is called back because the request asks for it."""
    asked = {"messages": [{"role": "user", "content": PROMPT}], "callback_url": callback_url, "max_tokens": 8, "temperature": 0}
    return {"id": job_id, "input": {"id": job_id, "user_id": "user-1", "type": "chat", **asked, **fields}}


def with_fields(job: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A job with other fields at the top of its request."""
    return {**job, "input": {**job["input"], **fields}}


def _nothing(_message: Message) -> None:
    """A callback is received and that is all."""
