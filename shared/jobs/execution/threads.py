"""Bridges between a job's coroutine and the threads that do its blocking work: no work outlives its job, also when the job is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from shared.jobs.execution.cancel import CancelToken

T = TypeVar("T")

# Enough to encode and upload the six images of a job, or to fetch its references, concurrently.
_MAX_THREADS = 8


@contextlib.contextmanager
def job_executor() -> Iterator[Executor]:
    """An executor for one job's I/O; its threads start on demand. A shared one would queue a job behind another job's stalled uploads."""
    executor = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="io")
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)  # callers have already waited for the work that they submitted


def submit(executor: Executor, work: Callable[[], T]) -> Future[T]:
    """Runs work on a thread with the caller's context variables, so that its log lines carry the job's id."""
    return executor.submit(contextvars.copy_context().run, work)


async def await_or_cancel(future: Future[T], token: CancelToken) -> T:
    """Awaits a future. On cancellation, signals the thread and waits for it to exit before re-raising.

    Otherwise the thread would keep working for a job that is over, and the next job would share the GPU with it.

    Args:
        future: Work that was submitted to a thread, and that checks `token` between its steps.
        token: The job's.

    Raises:
        asyncio.CancelledError: The job was cancelled, and the work has ended.
    """
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        token.cancel()
        future.cancel()  # has an effect only while the work is still queued
        await wait_done(waiting)
        raise


async def wait_done(future: asyncio.Future[T]) -> None:
    """Returns once a future is done, whatever its outcome and however often the waiting task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # marks it as retrieved, so that asyncio does not log it


@contextlib.asynccontextmanager
async def drain(futures: Collection[Future[T]]) -> AsyncIterator[None]:
    """On exit, cancels the futures that are still queued and waits for those that are running. `futures` may grow in the body."""
    try:
        yield
    finally:
        for future in futures:
            future.cancel()
        for future in futures:
            await wait_done(asyncio.wrap_future(future))
