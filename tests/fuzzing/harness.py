"""What a few workers on one volume need around them, and a hand on every job: it goes on when it is told to."""

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
from playground.callback_receiver import CannedResponse, CallbackReceiver, ReceivedCallback
from shared.contract.request import Operator
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.delivery.outbox import Outbox
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
from tests.shared.jobs.conftest import nothing

KEY, SECRET = "canary-service-key", "canary-callback-secret"
PATIENCE = 60.0

T = TypeVar("T")


class Receiver(CallbackReceiver):
    """An inbox that can be away.

    Attributes:
        away: How it answers as long as it is.
        accepted: What it has taken.
    """

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.away: CannedResponse | None = None
        self.accepted: list[ReceivedCallback] = []

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> CannedResponse:
        super().receive(path, headers, body)
        if self.away is None:
            self.accepted.append(self.messages[-1])
        return self.away or CannedResponse()


def pixels(seed: int) -> Pixels:
    """What a seed makes."""
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)


@dataclass
class Delivery:
    """A job that was handed out, and the hand on it.

    Attributes:
        job: Its id.
        number: Of the delivery; told apart by it while it is in hand.
        fails_at: The picture at which it meets a fault.
        worker: Who has it.
        task: Its work.
        may: Lets it make one more picture.
        waits: Whether it wants to make one.
    """

    job: str
    number: str
    fails_at: int | None
    worker: Worker[SdxlRequest]
    task: asyncio.Task[Outcome] = field(init=False)
    may: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    waits: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.task.done()


class Held:
    """A recipe whose jobs wait before each picture until they may make it."""

    def __init__(self, deliveries: dict[str, Delivery]) -> None:
        self._deliveries = deliveries

    def check(self, request: SdxlRequest) -> None:
        """Takes everything."""

    def generate(self, request: SdxlRequest, references: Mapping[str, Image.Image], run: JobRun) -> Generator[Output]:
        delivery = self._deliveries[run.job_id]
        for index, seed in enumerate(request.seeds):
            delivery.waits.set()
            while not delivery.may.acquire(timeout=0.002):
                run.cancel.check()
            if index == delivery.fails_at:
                raise RuntimeError("a fault")
            yield ImageOutput(pixels(seed), seed)

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "held", "enhancement_source": "none"})


class Around:
    """Storage, a receiver, a volume, and an event loop for the jobs, inside a `with` block.

    Args:
        folder: For the outboxes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()
        self.storage = FakeStorage(KEY)
        self.receiver = Receiver()
        self.deliveries: dict[str, Delivery] = {}

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
        """What a worker on a volume is configured with."""
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
        """Has the loop do something, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def begin(self, delivery: Delivery, raw: object) -> None:
        """Hands a job to a worker."""
        self.deliveries[delivery.number] = delivery

        async def start() -> asyncio.Task[Outcome]:
            run = JobRun(delivery.number, CancelToken(10 * PATIENCE), nothing)
            return asyncio.ensure_future(run_job(Job(delivery.number, raw), delivery.worker, run))

        delivery.task = self.run(start())


class Machine:
    """One worker process, as far as a job sees it, and what delivers its outbox."""

    def __init__(self, around: Around, volume: str) -> None:
        settings = around.settings(volume)
        storage, webhook = open_storage(settings), Webhook(settings)
        self.outbox = Outbox(settings.outbox, max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age)
        self.redelivery = Redelivery(self.outbox, storage, webhook)
        self._stack = ExitStack()
        callbacks = self._stack.enter_context(ThreadPoolExecutor(4))
        # As for a recipe that has a thread for the GPU of its own: several jobs are in hand at once.
        gpu = self._stack.enter_context(GpuThread(8))
        callbacks = CallbackDispatcher(storage, webhook, callbacks, always_callback=True, send_processing=True, outbox=self.outbox)
        self.worker = Worker("w", SdxlRequest, Held(around.deliveries), Operator(), storage, Fetcher(settings), callbacks, gpu, concurrency=8)

    def close(self) -> None:
        """Ends it."""
        self._stack.close()
