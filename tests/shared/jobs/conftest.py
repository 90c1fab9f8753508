"""The lifecycle without RunPod and without models: tests script the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.sdxl.request import SdxlRequest
from shared.contract.request import Operator
from shared.fetch import Fetcher
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Job, Worker
from shared.jobs.recipe import ImageOutput, JobRun, Output, Summary
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import ListedObject, StoredObject
from shared.webhooks import Webhook
from tests.doubles.jobs import sdxl_job

Generate = Callable[[SdxlRequest, JobRun], Generator[Output]]
References = Mapping[str, Image.Image]


def ignore_progress(done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
    """A progress reporter that does nothing."""


def image_output(seed: int = 0) -> ImageOutput:
    """A grey image."""
    return ImageOutput(np.full((64, 64, 3), 128, dtype=np.uint8), seed)


def job(job_id: str = "job", **config: Any) -> Job:
    """A small valid SDXL job."""
    return Job(job_id, sdxl_job(job_id, **config)["input"])


def run(job_id: str = "job", deadline: float = 60.0) -> JobRun:
    """The run of a job that is not cancelled."""
    return JobRun(job_id, CancelToken(deadline), ignore_progress)


@dataclass
class ScriptedRecipe:
    """A recipe whose outputs a test scripts.

    Attributes:
        script: Generates the outputs.
        received: The references of each call.
        on_check: Called by `check`.
    """

    script: Generate
    received: list[References] = field(default_factory=list)
    on_check: Callable[[], object] = lambda: None

    def check(self, request: SdxlRequest) -> None:
        """Accepts every request."""
        self.on_check()

    def generate(self, request: SdxlRequest, references: References, run: JobRun) -> Generator[Output]:
        self.received.append(references)
        yield from self.script(request, run)

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "scripted"})


@dataclass
class ObservedDisk:
    """Local storage that calls `before_put` with each key, and records the keys that were stored."""

    disk: LocalDisk
    before_put: Callable[[str], None] = field(default=lambda key: None)
    keys: list[str] = field(default_factory=list)
    keeps_callbacks: bool = True

    def check(self, mime_types: Collection[str]) -> None:
        self.disk.check(mime_types)

    def ensure_accepts(self, mime_types: Collection[str], *, max_bytes: int = 0) -> None:
        self.disk.ensure_accepts(mime_types, max_bytes=max_bytes)

    def presigned_url(self, key: str) -> None:
        self.disk.presigned_url(key)

    def list_objects(self, user_id: str, job_id: str) -> list[ListedObject]:
        return self.disk.list_objects(user_id, job_id)

    def sha256(self, key: str) -> str | None:
        return self.disk.sha256(key)

    def remove(self, keys: Sequence[str]) -> None:
        self.disk.remove(keys)

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        self.before_put(key)
        stored = self.disk.put(key, content, content_type)
        self.keys.append(key)
        return stored


@pytest.fixture
def disk(tmp_path: Path) -> ObservedDisk:
    return ObservedDisk(LocalDisk(tmp_path))


MakeWorker = Callable[[Generate], Worker[SdxlRequest]]


@pytest.fixture
def make_worker(disk: ObservedDisk, tmp_path: Path) -> Iterator[MakeWorker]:
    """A factory of workers with a scripted recipe."""
    settings = Settings(output_dir=tmp_path)
    with GpuThread() as gpu, ThreadPoolExecutor(8) as threads:
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=True, send_processing=False)

        def make(generate: Generate) -> Worker[SdxlRequest]:
            return Worker("test_worker", SdxlRequest, ScriptedRecipe(generate), Operator(), disk, Fetcher(settings), callbacks, gpu)

        yield make
