"""A job's text, read while it is written."""

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
    """Work that reports a growing text, and a reader who takes what is new whenever he comes. Neither waits for the other.

    To be used as an async context: leaving it before the end stops the work, and returns when it has ended. The end of the task that reads
    stops it, too: a generator that is suspended at a piece is not told when its reader is cancelled, and RunPod's SDK does not close it.

    Args:
        work: Takes the progress that it is to report to.
        interval: Least seconds between two pieces.

    Attributes:
        end: What the work returns, or raises.
    """

    end: asyncio.Future[T]

    def __init__(self, work: Callable[[Progress], Coroutine[Any, Any, T]], interval: float) -> None:
        self._work = work
        self._interval = interval
        self._text = ""
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def send(update: Mapping[str, JsonValue]) -> None:
            loop.call_soon_threadsafe(self._show, str(update.get("text", "")))

        self.result = asyncio.ensure_future(self._work(Progress(send, self._interval)))
        self.result.add_done_callback(lambda _end: self._changed.set())
        if (reader := asyncio.current_task()) is not None:
            reader.add_done_callback(lambda _reader: self.result.cancel())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.result.cancel()
        await wait_done(self.result)

    async def deltas(self) -> AsyncIterator[str]:
        """What has been added to the text since the piece before, to its end. A reader who is late gets more at once."""
        read, over = 0, False
        while not over:
            await self._changed.wait()
            self._changed.clear()
            # The last update was shown before the work could end.
            over = self.result.done()
            if piece := self._text[read:]:
                read = len(self._text)
                yield piece

    def _show(self, text: str) -> None:
        self._text = text
        self._changed.set()
