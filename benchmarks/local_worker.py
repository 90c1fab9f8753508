"""A complete worker in this process, without RunPod's SDK, for benchmarks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shared.contract.request import Operator
from shared.fetch import Fetcher
from shared.handler import Handler
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Worker
from shared.jobs.recipe import JobRun, Recipe
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import Storage
from shared.webhooks import Webhook


@contextmanager
def local_worker(
    name: str, models: Path, folder: Path, recipe: Recipe[Any] | None = None, *, storage: Storage | None = None
) -> Iterator[Worker[Any]]:
    """Yields a worker that stores results on local disk and sends no callbacks.

    Args:
        name: The handler: `sdxl`, `wan` or `chat`.
        models: The MODELS_DIR.
        folder: The folder for results.
        recipe: A recipe that is already loaded; by default the handler loads its own.
        storage: A storage to use instead of local disk.
    """
    handler: Handler[Any] = importlib.import_module(f"handlers.{name}.handler").HANDLER
    settings = Settings(models_dir=models, output_dir=folder)
    storage = storage or LocalDisk(folder)
    with GpuThread() as gpu, ThreadPoolExecutor(1) as threads:
        yield Worker(
            id="bench",
            request=handler.request,
            recipe=recipe or gpu.submit(partial(handler.load, settings)).result(),
            operator=Operator(),
            storage=storage,
            fetcher=Fetcher(settings),
            callbacks=CallbackDispatcher(storage, Webhook(settings), threads, always_callback=False, send_processing=False),
            gpu=gpu,
        )


def bench_run() -> JobRun:
    """Returns a run with a deadline of one hour and without progress reports."""
    return JobRun("bench", CancelToken(3600), lambda done, total, *, text=None, preview=None: None)
