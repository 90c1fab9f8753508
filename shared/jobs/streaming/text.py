"""A job's text as an asynchronous stream, read while it is generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pydantic import JsonValue

from shared.jobs.execution.threads import wait_done
from shared.jobs.streaming.progress import Progress

T = TypeVar("T")


class TextStream(Generic[T]):
    """Runs work that reports a growing text, and yields what is new. Neither side blocks the other: a slow reader gets larger deltas.

    An asynchronous context manager: leaving it early cancels the work and waits for its end. The end of the reading task cancels the work,
    too: a suspended generator is not closed when its reader is cancelled, and RunPod's SDK does not close it either.

    Args:
        work: Reports to the progress that it is given.
        interval: Minimum seconds between two deltas.

    Attributes:
        result: What the work returns or raises.
    """

    result: asyncio.Future[T]

    def __init__(self, work: Callable[[Progress], Coroutine[Any, Any, T]], interval: float) -> None:
        self._work = work
        self._interval = interval
        self._text = ""
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def send(update: Mapping[str, JsonValue]) -> None:
            loop.call_soon_threadsafe(self._update, str(update.get("text", "")))

        self.result = asyncio.ensure_future(self._work(Progress(send, self._interval)))
        self.result.add_done_callback(lambda _result: self._changed.set())
        if (reader := asyncio.current_task()) is not None:
            reader.add_done_callback(lambda _reader: self.result.cancel())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.result.cancel()
        await wait_done(self.result)

    async def deltas(self) -> AsyncIterator[str]:
        """Yields the text that was added since the previous delta, up to its end."""
        length, done = 0, False
        while not done:
            await self._changed.wait()
            self._changed.clear()
            # Read before the text: the last update precedes the end of the work.
            done = self.result.done()
            if delta := self._text[length:]:
                length = len(self._text)
                yield delta

    def _update(self, text: str) -> None:
        self._text = text
        self._changed.set()
