"""The one thread that owns the GPU, until the GPU is lost; or those who wait for a recipe that has such a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from shared.errors import DeviceError, JobError, classify
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.threads import await_or_cancel, submit

T = TypeVar("T")


class GpuThread:
    """Does one piece of work at a time, and none any more once it was condemned.

    Args:
        max_workers: More than 1 only for work that itself waits for the one thread that owns the GPU.
    """

    def __init__(self, max_workers: int = 1) -> None:
        self._executor = ThreadPoolExecutor(max_workers, thread_name_prefix="gpu")
        self._lost = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._executor.shutdown(wait=not self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether it takes no work any more."""
        return self._lost.is_set()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Starts work that no job waits for: the loading of models."""
        return submit(self._executor, work)

    async def run(self, work: Callable[[], T], token: CancelToken) -> T:
        """Does a job's work, as `finished` does it.

        Raises:
            DeviceError: The GPU was lost before the work began.
            asyncio.CancelledError: The job was stopped.
        """
        if self.is_lost:
            raise _lost()
        future = self.submit(partial(self._unless_lost, work))
        try:
            return await await_or_cancel(future, token)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or not future.cancelled():
                raise
            raise _lost() from None  # not this job was stopped, but all that waited

    def mark_lost(self) -> None:
        """Ends it for good: what still waits for it fails with `DeviceError`. What runs cannot be ended from outside."""
        self._lost.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _unless_lost(self, work: Callable[[], T]) -> T:
        """On the thread itself, so that not even the next piece of work begins on a GPU that the one before has lost."""
        if self.is_lost:
            raise _lost()
        try:
            return work()
        except (JobError, RuntimeError) as error:  # torch's errors are of the latter
            if classify(error, "").replaces_worker:
                self._lost.set()
            raise


def _lost() -> DeviceError:
    return DeviceError("The GPU failed before this job began; the worker is replaced. Send the job again.")
