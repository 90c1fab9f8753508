"""Whole jobs in this process: from an input as RunPod delivers it, through validation, handler and storage, to response and files."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.fetch import Fetcher
from shared.handler import Handler
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Job, Stopped, Worker, run_job
from shared.jobs.recipe import JobRun, Recipe
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.webhooks import Webhook
from tests.shared.jobs.conftest import ignore_progress

INPUTS = Path(__file__).with_name("inputs")


def reported(name: str) -> Any:
    """Returns the input of a report, from `inputs/`: bytes, or what a JSON file has."""
    content = (INPUTS / name).read_bytes()
    return json.loads(content) if name.endswith(".json") else content


def data_url(content: bytes, mime: str = "image/png") -> str:
    """Returns a `data:` URL."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Result:
    """What a caller gets.

    Attributes:
        response: As RunPod gets it.
        folder: The stored files.
    """

    response: dict[str, Any]
    folder: Path

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The only image of a completed job, height × width × 3."""
        assert self.response["status"] == "completed", self.response["error_message"]
        (asset,) = self.response["assets"]
        with Image.open(self.folder / asset["url"]) as image:
            return np.asarray(image.convert("RGB"))

    @property
    def text(self) -> str:
        """The text of a completed chat job."""
        assert self.response["status"] == "completed", self.response["error_message"]
        return str(self.response["response"])

    @property
    def error(self) -> tuple[str, str]:
        """The code and the message of a failed job."""
        assert self.response["status"] == "failed"
        return self.response["metadata"]["error_code"], self.response["error_message"]


class JobRunner:
    """Runs jobs of one handler with one loaded recipe.

    Args:
        handler: The handler.
        recipe: Its recipe.
        folder: Where results are stored.
        settings: The worker's configuration.
    """

    def __init__(self, handler: Handler[Any], recipe: Recipe[Any], folder: Path, settings: Settings) -> None:
        self._handler, self._recipe, self._folder, self._settings = handler, recipe, folder, settings
        self._count = 0

    def run(self, job_input: Mapping[str, Any]) -> Result:
        """Runs one job. Its files have a folder of their own."""
        self._count += 1
        folder = self._folder / str(self._count)
        with self._worker(folder) as worker:
            job = Job(f"runpod-{self._count}", dict(job_input))
            outcome = asyncio.run(run_job(job, worker, JobRun(job.id, CancelToken(120), ignore_progress)))
        assert not isinstance(outcome, Stopped)
        response = self._handler.present(job.id, job.input).result(outcome)
        assert isinstance(response, dict)
        return Result(response, folder)

    @contextmanager
    def _worker(self, folder: Path) -> Iterator[Worker[Any]]:
        handler, settings, disk = self._handler, self._settings, LocalDisk(folder)
        with GpuThread() as gpu, ThreadPoolExecutor(2) as threads:
            callbacks = CallbackDispatcher(disk, Webhook(settings), threads, always_callback=False, send_processing=False)
            yield Worker(
                id="worker",
                request=handler.request,
                recipe=self._recipe,
                operator=handler.operator(settings),
                storage=disk,
                fetcher=Fetcher(settings),
                callbacks=callbacks,
                gpu=gpu,
                types_of=handler.types_of_job,
            )
