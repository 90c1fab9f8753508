"""TextStream: the work and its reader never block each other, and the end of either ends the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from shared.jobs.streaming.progress import Progress
from shared.jobs.streaming.text import TextStream


class Writer:
    """Reports a text that grows by one letter every few milliseconds."""

    def __init__(self, letters: int) -> None:
        self.letters = letters
        self.written = 0
        self.ended = False

    async def __call__(self, progress: Progress) -> int:
        try:
            with progress:
                while self.written < self.letters:
                    self.written += 1
                    progress.report(self.written, self.letters, text="x" * self.written)
                    await asyncio.sleep(0.002)
                await asyncio.to_thread(progress.close)
            return self.written
        finally:
            self.ended = True


async def read(writer: Writer, pause: float = 0.0) -> list[str]:
    async with TextStream(writer, 0.01) as text:
        deltas = []
        async for delta in text.deltas():
            deltas.append(delta)
            await asyncio.sleep(pause)
        assert await text.result == writer.letters
    return deltas


def test_deltas_add_up_to_the_text() -> None:
    assert "".join(asyncio.run(read(Writer(100)))) == "x" * 100


def test_text_that_precedes_the_reader_is_one_delta() -> None:
    async def read_late() -> list[str]:
        async with TextStream(Writer(30), 0.0) as text:
            await text.result
            return [delta async for delta in text.deltas()]

    assert asyncio.run(read_late()) == ["x" * 30]


def test_slow_reader_gets_fewer_deltas() -> None:
    assert len(asyncio.run(read(Writer(100), pause=0.1))) < len(asyncio.run(read(Writer(100))))


def test_empty_text_has_no_delta() -> None:
    assert asyncio.run(read(Writer(0))) == []


async def stream(writer: Writer) -> AsyncGenerator[str]:
    async with TextStream(writer, 0.01) as text:
        async for delta in text.deltas():
            yield delta


def test_closing_the_reader_cancels_the_work() -> None:
    writer = Writer(100_000)

    async def scenario() -> None:
        deltas = stream(writer)
        await anext(deltas)
        await deltas.aclose()
        assert writer.ended

    asyncio.run(scenario())
    assert writer.written < writer.letters


def test_end_of_the_reading_task_cancels_the_work() -> None:
    """RunPod's SDK can be cancelled while it posts a delta. It then drops the generator without closing it."""
    writer = Writer(100_000)

    async def scenario() -> None:
        deltas, reading = stream(writer), asyncio.Event()

        async def read_and_wait() -> None:
            await anext(deltas)
            reading.set()
            await asyncio.sleep(60)

        reader = asyncio.create_task(read_and_wait())
        await reading.wait()
        reader.cancel()
        while not writer.ended:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert writer.written < writer.letters


def test_error_of_the_work_follows_the_last_delta() -> None:
    async def fail(progress: Progress) -> None:
        with progress:
            progress.report(1, 2, text="half")
        raise ValueError("no more")

    async def read_to_the_end() -> list[str]:
        deltas = []
        with contextlib.suppress(ValueError):
            async with TextStream(fail, 0.0) as text:
                deltas = [delta async for delta in text.deltas()]
                await text.result
                deltas.append("not reached")
        return deltas

    assert asyncio.run(read_to_the_end()) == ["half"]
