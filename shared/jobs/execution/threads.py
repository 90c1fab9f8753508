"""Work on threads, waited for by a job that may be stopped meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from shared.jobs.execution.cancel import CancelToken

T = TypeVar("T")

# Encoding and uploading the six pictures of a job, or fetching its references, side by side.
_THREADS = 8


@contextlib.contextmanager
def job_executor() -> Iterator[Executor]:
    """Threads for one job, made when they are needed. Were they shared, a job would wait for the uploads of others that do not end."""
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="io")
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)  # whoever gave it work has waited for it


def submit(executor: Executor, work: Callable[[], T]) -> Future[T]:
    """Starts work on a thread, in the context of the caller, so that its log lines carry the job's id."""
    return executor.submit(contextvars.copy_context().run, work)


async def await_or_cancel(future: Future[T], token: CancelToken) -> T:
    """Waits for work on a thread. A stopped job tells the work so, and goes on only when the work has really ended.

    Without that the thread would go on with a job that nobody waits for, and the next job would share the GPU with it.

    Raises:
        asyncio.CancelledError: The job was stopped.
    """
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        token.cancel()
        future.cancel()  # takes effect only while it still waits for its thread
        await wait_done(waiting)
        raise


async def wait_done(waiting: asyncio.Future[T]) -> None:
    """Returns when the work has ended, however it ended and however often the waiting is interrupted."""
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            continue
    if not waiting.cancelled():
        waiting.exception()  # looked at, so that asyncio does not report it as forgotten


@contextlib.asynccontextmanager
async def drain(futures: Collection[Future[T]]) -> AsyncIterator[None]:
    """On the way out, whatever happened inside, waits until none of `futures` runs any more: no work outlives its job."""
    try:
        yield
    finally:
        for future in futures:
            future.cancel()
        for future in futures:
            await wait_done(asyncio.wrap_future(future))
