"""The thread that owns the GPU, until the GPU is lost; or a pool of threads that wait for a recipe's own GPU thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self, TypeVar

from shared.errors import DeviceError, JobError, classify
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.idle import IdleWork
from shared.jobs.execution.threads import await_or_cancel, submit

T = TypeVar("T")


class GpuThread:
    """Runs one piece of work at a time, and none after the GPU was lost.

    Args:
        max_workers: More than 1 only for work that blocks on the single thread that really owns the GPU.
        idle_after: Seconds without work after which the GPU counts as idle.
    """

    def __init__(self, max_workers: int = 1, *, idle_after: float = 1.0) -> None:
        self._executor = ThreadPoolExecutor(max_workers, thread_name_prefix="gpu")
        self._lost = threading.Event()
        self._idle_after = idle_after
        self._idle: IdleWork | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop_idle_work()
        self._executor.shutdown(wait=not self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether the GPU was lost: no more work is accepted."""
        return self._lost.is_set()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Submits work that belongs to no job, such as loading the models."""
        future = submit(self._executor, work)
        if self._idle is not None:
            self._idle.wait_for(future)
        return future

    def run_when_idle(self, pieces: Iterable[Callable[[], None]], *, delay: float = 0.0) -> None:
        """Runs pieces of work one by one while there is no other work. Work that arrives waits for one piece at most.

        Args:
            pieces: Drawn from the iterable one by one. Without any, nothing happens.
            delay: Seconds until the first one, if no other work comes earlier.
        """
        pieces = iter(pieces)
        first = next(pieces, None)
        if first is not None:
            idle = IdleWork(lambda piece: submit(self._executor, partial(self._run_unless_lost, piece)), self._idle_after)
            self._idle = idle
            behind_running_work = submit(self._executor, lambda: None)
            behind_running_work.add_done_callback(lambda _done: idle.start(chain([first], pieces), delay))

    async def run(self, work: Callable[[], T], token: CancelToken) -> T:
        """Runs a job's work, with the cancellation of `await_or_cancel`.

        Raises:
            DeviceError: The GPU was lost before the work started.
            asyncio.CancelledError: The job was cancelled.
        """
        if self.is_lost:
            raise _device_lost()
        future = self.submit(partial(self._run_unless_lost, work))
        try:
            return await await_or_cancel(future, token)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or not future.cancelled():
                raise
            raise _device_lost() from None  # not this job was cancelled: `mark_lost` cancelled the queue

    def mark_lost(self) -> None:
        """Shuts down for good. Queued work fails with `DeviceError`; running work cannot be interrupted from outside."""
        self._lost.set()
        self._stop_idle_work()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _stop_idle_work(self) -> None:
        if self._idle is not None:
            self._idle.stop()

    def _run_unless_lost(self, work: Callable[[], T]) -> T:
        """Checks on the GPU thread itself, so that not even the next queued work starts on a GPU that the previous one has lost."""
        if self.is_lost:
            raise _device_lost()
        try:
            return work()
        except (JobError, RuntimeError) as error:  # torch raises subclasses of RuntimeError
            if classify(error, "").replaces_worker:
                self._lost.set()
            raise


def _device_lost() -> DeviceError:
    return DeviceError("The GPU failed before this job began; the worker is replaced. Send the job again.")
