"""The harness of the stateful test: workers on one volume with fake services, and jobs that advance only when told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image
from pydantic import SecretStr

from handlers.sdxl.request import SdxlRequest
from playground.callback_receiver import CallbackReceiver, CannedResponse, ReceivedCallback
from shared.contract.request import Operator
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.delivery.outbox import open_outbox
from shared.jobs.delivery.redelivery import Redelivery
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Job, Outcome, Worker, run_job
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.media.images import Pixels
from shared.settings import Settings
from shared.storage import open_storage
from shared.webhooks import Webhook
from tests.doubles.fake_storage import FakeStorage
from tests.shared.jobs.conftest import ignore_progress

KEY, SECRET = "canary-service-key", "canary-callback-secret"
TIMEOUT = 60.0

T = TypeVar("T")


class UnreliableReceiver(CallbackReceiver):
    """A callback receiver that can be switched to an outage.

    Attributes:
        outage: The response during an outage, otherwise None.
        accepted: The callbacks that were accepted.
    """

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.outage: CannedResponse | None = None
        self.accepted: list[ReceivedCallback] = []

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> CannedResponse:
        super().receive(path, headers, body)
        if self.outage is None:
            self.accepted.append(self.messages[-1])
        return self.outage or CannedResponse()


def pixels(seed: int) -> Pixels:
    """Returns the image of a seed."""
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)


@dataclass
class Attempt:
    """One delivery of a job to a worker, and the controls that let it advance.

    Attributes:
        job: The job's id.
        id: The id of this attempt, which distinguishes it from other attempts of the same job.
        fails_at: The index of the image at which generation fails, or None.
        worker: The worker that runs it.
        task: The running task.
        permits: A semaphore; each permit lets it generate one image.
        is_waiting: Set while it waits for a permit.
    """

    job: str
    id: str
    fails_at: int | None
    worker: Worker[SdxlRequest]
    task: asyncio.Task[Outcome] = field(init=False)
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_waiting: threading.Event = field(default_factory=threading.Event)

    @property
    def is_done(self) -> bool:
        """Whether the task has ended."""
        return self.task.done()


class SteppedRecipe:
    """A recipe whose jobs wait for a permit before each image."""

    def __init__(self, attempts: dict[str, Attempt]) -> None:
        self._attempts = attempts

    def check(self, request: SdxlRequest) -> None:
        """Accepts every request."""

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        attempt = self._attempts[run.job_id]
        for index, seed in enumerate(request.seeds):
            attempt.is_waiting.set()
            while not attempt.permits.acquire(timeout=0.002):
                run.cancel.check()
            if index == attempt.fails_at:
                raise RuntimeError("a fault")
            yield ImageOutput(pixels(seed), seed)

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "stepped", "enhancement_source": "none"})


class Environment:
    """Fake storage, a callback receiver, volumes, and an event loop for the jobs, inside a `with` block.

    Args:
        folder: The folder for the volumes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()
        self.storage = FakeStorage(KEY)
        self.receiver = UnreliableReceiver()
        self.attempts: dict[str, Attempt] = {}

    def __enter__(self) -> Self:
        self._stack.enter_context(self.storage)
        self._stack.enter_context(self.receiver)
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings(self, volume: str) -> Settings:
        """Returns the settings of a worker on a volume."""
        return Settings(
            supabase_url=self.storage.url,
            supabase_service_role_key=SecretStr(KEY),
            job_callback_url=self.receiver.url,
            job_callback_secret=SecretStr(SECRET),
            outbox_dir=self._folder / volume,
            upload_deadline=10.0,
            callback_deadline=10.0,
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the event loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def start(self, attempt: Attempt, raw: object) -> None:
        """Starts an attempt on its worker."""
        self.attempts[attempt.id] = attempt

        async def create_task() -> asyncio.Task[Outcome]:
            run = JobRun(attempt.id, CancelToken(10 * TIMEOUT), ignore_progress)
            return asyncio.ensure_future(run_job(Job(attempt.id, raw), attempt.worker, run))

        attempt.task = self.run(create_task())


class Machine:
    """One worker with its outbox and redelivery."""

    def __init__(self, environment: Environment, volume: str) -> None:
        settings = environment.settings(volume)
        storage, webhook = open_storage(settings), Webhook(settings)
        self.outbox = open_outbox(settings)
        self.redelivery = Redelivery(self.outbox, storage, webhook)
        self._stack = ExitStack()
        threads = self._stack.enter_context(ThreadPoolExecutor(4))
        # Several threads, like a recipe with a GPU thread of its own, so that several jobs are in flight.
        gpu = self._stack.enter_context(GpuThread(8))
        dispatcher = CallbackDispatcher(storage, webhook, threads, always_callback=True, send_processing=True, outbox=self.outbox)
        self.worker = Worker(
            "w", SdxlRequest, SteppedRecipe(environment.attempts), Operator(), storage, Fetcher(settings), dispatcher, gpu, concurrency=8
        )

    def close(self) -> None:
        """Shuts the worker down."""
        self._stack.close()
