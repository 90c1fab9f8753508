"""A job's output as an asynchronous stream of pieces, read while it is generated."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from shared.jobs.execution.threads import wait_done

T = TypeVar("T")
Emit = Callable[[Any], None]


class OutputStream(Generic[T]):
    """Runs work that emits pieces of its output, and yields them. Neither side blocks the other: a slow reader gets more pieces at once.

    An asynchronous context manager: leaving it early cancels the work and waits for its end. The end of the reading task cancels the work,
    too: a suspended generator is not closed when its reader is cancelled, and RunPod's SDK does not close it either.

    Args:
        work: Is given a function that takes a piece, from any thread.
        interval: Minimum seconds between two batches.

    Attributes:
        result: What the work returns or raises.
    """

    result: asyncio.Future[T]

    def __init__(self, work: Callable[[Emit], Coroutine[Any, Any, T]], interval: float) -> None:
        self._work = work
        self._interval = interval
        self._pieces: deque[Any] = deque()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def emit(piece: Any) -> None:
            self._pieces.append(piece)
            loop.call_soon_threadsafe(self._changed.set)

        self.result = asyncio.ensure_future(self._work(emit))
        self.result.add_done_callback(lambda _result: self._changed.set())
        if (reader := asyncio.current_task()) is not None:
            reader.add_done_callback(lambda _reader: self.result.cancel())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.result.cancel()
        await wait_done(self.result)

    async def batches(self) -> AsyncIterator[list[Any]]:
        """Yields the pieces that were emitted since the previous batch, up to the end of the work; the last ones without delay."""
        done = False
        while not done:
            await self._changed.wait()
            self._changed.clear()
            # Read before the pieces: the last one precedes the end of the work.
            done = self.result.done()
            if batch := [self._pieces.popleft() for _ in range(len(self._pieces))]:
                yield batch
                await asyncio.wait([self.result], timeout=self._interval)
