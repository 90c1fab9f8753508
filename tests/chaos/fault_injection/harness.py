"""Test harness: fake storage, a callback receiver, and real workers with a fake RunPod API each, all on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import trustme

from playground.callback_receiver import CallbackReceiver, CannedResponse, ReceivedCallback
from shared.jobs.delivery.outbox_entry import MANIFEST
from tests.chaos.fault_injection.worker_handle import WorkerHandle
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.fake_storage import FakeStorage
from tests.doubles.processes import clean_environment, run_module
from tests.doubles.s3_server import FaultProxy, S3Server
from tests.doubles.worker import WorkerProcess

SERVICE_KEY = "canary-service-key"
CALLBACK_SECRET = "canary-callback-secret-0123456789"
URL_TOKEN = "canary-url-token"
PROMPT = "canary-prompt-heron-over-the-bay"
NEGATIVE_PROMPT = "canary-negative-prompt-fog"

# Long enough for retries, short enough for tests in which storage or the receiver stays unavailable.
DEADLINES = {"UPLOAD_DEADLINE": "5", "CALLBACK_DEADLINE": "2", "REFERENCE_DEADLINE": "1.5", "REFERENCE_MAX_BYTES": str(2 * 1024**2)}


class Harness:
    """Storage, a callback receiver, and one shared worker per handler, started on first use.

    Args:
        folder: Parent of the workers' folders, of the outbox and of the log files.
        models: Folder whose entries are linked into the workers' `MODELS_DIR`.
        environment: Additional environment variables of every worker.

    Attributes:
        authority: The only certificate authority that the workers trust.
        on_callback: Called with each callback on arrival, before it is recorded and answered.
        latest_process: The process that was started last, which may still be starting.
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
        self.storage = self._stack.enter_context(FakeStorage(SERVICE_KEY))
        self.on_callback: Callable[[ReceivedCallback], None] = _ignore
        self.receiver = self._stack.enter_context(CallbackReceiver(CALLBACK_SECRET, on_callback=lambda message: self.on_callback(message)))
        self._environment = environment or {}
        self.latest_process: WorkerProcess | None = None
        self._workers: dict[str, WorkerHandle] = {}
        self._started = 0
        self._stopped: list[WorkerHandle] = []

    def close(self) -> None:
        """Stops all workers and servers."""
        self._stack.close()

    @property
    def outbox(self) -> Path:
        """`OUTBOX_DIR` of all workers. It outlives them, as a network volume does."""
        return self.folder / "volume" / "outbox"

    def outbox_manifests(self) -> list[str]:
        """Returns the manifests of all pending entries, skipping entries that a worker removes meanwhile."""
        manifests = []
        for entry in self.outbox.iterdir() if self.outbox.is_dir() else ():
            with suppress(FileNotFoundError, NotADirectoryError):
                manifests.append((entry / MANIFEST).read_text(errors="replace"))
        return manifests

    def environment(self, handler: str) -> dict[str, str]:
        """Returns the environment variables of a worker."""
        return {
            **DEADLINES,
            "FAULTS_HANDLER": handler,
            "FAULTS_AUTHORITY": str(self.folder / "authority.pem"),
            "SUPABASE_URL": self.storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "JOB_CALLBACK_URL": f"{self.receiver.url}?token={URL_TOKEN}",
            "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
            "OUTBOX_DIR": str(self.outbox),
            "MODELS_DIR": str(self.models),
            "DEVICE": "cpu",
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",  # chat sends callbacks only to the URL of the request
            # The SDK counts a queued job twice, and sleeps for a second whenever that exceeds the concurrency.
            "JOB_CONCURRENCY": "3",
            **self._environment,
        }

    def worker(self, handler: str = "sdxl") -> WorkerHandle:
        """Returns the shared worker of a handler."""
        if handler not in self._workers:
            self._workers[handler] = self._stack.enter_context(self.dedicated_worker(handler))
        return self._workers[handler]

    def forget_worker(self, handler: str) -> None:
        """Makes the next job of a handler start a new worker, because this one has exited."""
        self._workers.pop(handler, None)

    @contextmanager
    def dedicated_worker(
        self, handler: str = "sdxl", module: str = "tests.chaos.fault_injection.worker", **environment: str
    ) -> Iterator[WorkerHandle]:
        """Starts a worker that is not shared, which a test may terminate."""
        self._started += 1
        folder = self.folder / f"{handler}-{self._started}"
        (folder / "tmp").mkdir(parents=True)
        variables = self.environment(handler) | {
            "TMPDIR": str(folder / "tmp"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # torch keeps it for the life of the process: not a leftover of a job
            **environment,
        }
        with FakeRunPodAPI() as runpod_api, WorkerProcess(module, runpod_api, folder, variables) as process:
            self.latest_process = process
            while not runpod_api.takes and process.process.poll() is None:
                time.sleep(0.05)
            worker = WorkerHandle(handler, process, runpod_api)
            yield worker
            self._stopped.append(worker)

    @cached_property
    def s3(self) -> FaultProxy:
        """A bucket of a real S3 server, behind a proxy that injects faults; started on first use."""
        folder = self.folder / "buckets"
        folder.mkdir()
        return self._stack.enter_context(FaultProxy(self._stack.enter_context(S3Server(folder).running())))

    def s3_worker(self, **environment: str) -> AbstractContextManager[WorkerHandle]:
        """Starts a dedicated worker that stores its results in S3."""
        # Without presigned URLs: they contain the access key id, and no key may occur in a payload of these tests.
        return self.dedicated_worker("stub", **{"RESULT_STORAGE": "s3", "BUCKET_URL_EXPIRY": "0", **self.s3.environment, **environment})

    def take_stopped(self) -> list[WorkerHandle]:
        """Returns the dedicated workers that have exited since the last call."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def run_job(self, job: dict[str, Any], *, rejected: bool = False, handler: str = "sdxl") -> dict[str, Any]:
        """Runs a job in the shared worker of a handler, and returns the payload that RunPod receives."""
        return self.worker(handler).run_job(job, rejected=rejected)

    def redeliver(self, **environment: str) -> int:
        """Runs `python -m shared.redeliver`, which delivers pending outbox entries, and returns its exit code."""
        variables = clean_environment(**{**self.environment("sdxl"), **environment})
        return run_module("shared.redeliver", folder=self.folder, environment=variables).returncode

    def wait_until_delivered(self, job_id: str, seconds: float = 60.0) -> None:
        """Waits until the outbox has no entry of a job."""
        ends = time.monotonic() + seconds
        while any(f'"job_id":"{job_id}"' in manifest for manifest in self.outbox_manifests()):
            assert time.monotonic() < ends, f"{job_id} was not delivered within {seconds} s"
            time.sleep(0.05)

    def set_callback_responses(self, *responses: CannedResponse) -> None:
        """Sets the receiver's next responses. After the last one it responds with 200."""
        self.receiver.respond_with(responses)

    def clear_faults(self) -> None:
        """Removes all faults from storage, the receiver and the shared workers."""
        self.storage.recover()
        if "s3" in vars(self):
            self.s3.recover()
        self.receiver.recover()
        self.on_callback = _ignore
        for worker in self._workers.values():
            worker.clear_faults()

    def wait_until_clean(self, seconds: float = 60.0) -> None:
        """Waits until no shared worker has temporary files, for at most `seconds`."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and any(any(worker.temp_folder.iterdir()) for worker in self._workers.values()):
            time.sleep(0.05)


def sdxl(job_id: str, *, prompt: str = PROMPT, **config: Any) -> dict[str, Any]:
    """Returns a small SDXL job."""
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    return _diffusion_job(job_id, "sdxl_image_fast", prompt, settings)


def wan(job_id: str, **config: Any) -> dict[str, Any]:
    """Returns a small WAN job."""
    settings = {"width": 64, "height": 64, "frames": 6, "fps": 8, "steps": 3, "seed": 7} | config
    return _diffusion_job(job_id, "video_fast", PROMPT, settings)


def _diffusion_job(job_id: str, kind: str, prompt: str, config: dict[str, Any]) -> dict[str, Any]:
    fields = {"user_id": "user-1", "type": kind, "prompt": prompt, "negative_prompt": NEGATIVE_PROMPT, "config": config}
    return {"id": job_id, "input": {"id": job_id, **fields}}


def chat(job_id: str, callback_url: str, **fields: Any) -> dict[str, Any]:
    """Returns a short chat job that requests a callback."""
    request = {"messages": [{"role": "user", "content": PROMPT}], "callback_url": callback_url, "max_tokens": 8, "temperature": 0}
    return {"id": job_id, "input": {"id": job_id, "user_id": "user-1", "type": "chat", **request, **fields}}


def with_fields(job: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Returns the job with these top-level fields of its request replaced."""
    return {**job, "input": {**job["input"], **fields}}


def _ignore(_message: ReceivedCallback) -> None:
    """Does nothing on a callback."""
