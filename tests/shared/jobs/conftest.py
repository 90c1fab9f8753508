"""A lifecycle without RunPod and without a model: recipes are made by the tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
from shared.storage.protocol import StoredObject
from shared.webhooks import Webhook
from tests.doubles.jobs import sdxl_job

Making = Callable[[SdxlRequest, JobRun], Generator[Output]]
References = Mapping[str, Image.Image]


def nothing(done: int, total: int, *, text: str | None = None, preview: str | None = None) -> None:
    """Progress that nobody looks at."""


def picture(seed: int = 0) -> ImageOutput:
    """A grey picture."""
    return ImageOutput(np.full((64, 64, 3), 128, dtype=np.uint8), seed)


def job(job_id: str = "job", **config: Any) -> Job:
    """A small SDXL job."""
    return Job(job_id, sdxl_job(job_id, **config)["input"])


def run(job_id: str = "job", deadline: float = 60.0) -> JobRun:
    """A run that nobody stops."""
    return JobRun(job_id, CancelToken(deadline), nothing)


@dataclass
class Made:
    """A recipe that makes what a test says."""

    making: Making
    seen: list[References] = field(default_factory=list)
    judging: float = 0.0

    def check(self, request: SdxlRequest) -> None:
        """Takes everything, after as many seconds as it is told."""
        time.sleep(self.judging)

    def generate(self, request: SdxlRequest, references: References, run: JobRun) -> Generator[Output]:
        self.seen.append(references)
        yield from self.making(request, run)

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "made"})


@dataclass
class WatchedDisk:
    """Local disk that tells a test when something is about to be stored."""

    disk: LocalDisk
    before_put: Callable[[str], None] = field(default=lambda key: None)
    keys: list[str] = field(default_factory=list)
    keeps_callbacks: bool = True

    def check(self) -> None:
        self.disk.check()

    def put(self, key: str, content: bytes | Path, content_type: str, *, seconds: float = math.inf) -> StoredObject:
        self.before_put(key)
        stored = self.disk.put(key, content, content_type)
        self.keys.append(key)
        return stored


@pytest.fixture
def disk(tmp_path: Path) -> WatchedDisk:
    return WatchedDisk(LocalDisk(tmp_path))


Workers = Callable[[Making], Worker[SdxlRequest]]


@pytest.fixture
def worker(disk: WatchedDisk, tmp_path: Path) -> Iterator[Workers]:
    """Makes a worker of a recipe's `generate`."""
    settings = Settings(output_dir=tmp_path)
    with GpuThread() as gpu, ThreadPoolExecutor(8) as threads:
        callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=True, send_processing=False)

        def make(making: Making) -> Worker[SdxlRequest]:
            return Worker("test_worker", SdxlRequest, Made(making), Operator(), disk, Fetcher(settings), callbacks, gpu)

        yield make
