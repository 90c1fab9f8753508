"""A whole worker in this process, without RunPod: what benchmarks measure."""

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
from shared.jobs.recipe import Recipe, JobRun
from shared.settings import Settings
from shared.storage.local_disk import LocalDisk
from shared.storage.protocol import Storage
from shared.webhooks import Webhook


@contextmanager
def local_worker(
    name: str, models: Path, folder: Path, recipe: Recipe[Any] | None = None, *, storage: Storage | None = None
) -> Iterator[Worker[Any]]:
    """A worker that keeps its results on local disk and calls nobody back.

    Args:
        name: `sdxl`, `wan` or `chat`.
        models: A folder that serves as MODELS_DIR.
        folder: Where results go.
        recipe: One that is loaded already; else the handler loads its own.
        storage: Where results go instead.
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
    """A run of an hour at most whose progress nobody follows."""
    return JobRun("bench", CancelToken(3600), lambda done, total, *, text=None, preview=None: None)
