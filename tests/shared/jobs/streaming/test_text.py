"""Neither waits for the other: a text grows as it can, and a reader takes what is new when he comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from shared.jobs.streaming.progress import Progress
from shared.jobs.streaming.text import TextStream


class Writer:
    """Writes a letter every few milliseconds, up to so many."""

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
        pieces = []
        async for piece in text.deltas():
            pieces.append(piece)
            await asyncio.sleep(pause)
        assert await text.result == writer.letters
    return pieces


def test_deltas_add_up_to_the_text() -> None:
    assert "".join(asyncio.run(read(Writer(100)))) == "x" * 100


def test_text_that_precedes_the_reader_is_one_delta() -> None:
    async def late() -> list[str]:
        async with TextStream(Writer(30), 0.0) as text:
            await text.result
            return [piece async for piece in text.deltas()]

    assert asyncio.run(late()) == ["x" * 30]


def test_slow_reader_gets_fewer_deltas() -> None:
    assert len(asyncio.run(read(Writer(100), pause=0.1))) < len(asyncio.run(read(Writer(100))))


def test_empty_text_has_no_delta() -> None:
    assert asyncio.run(read(Writer(0))) == []


async def stream(writer: Writer) -> AsyncGenerator[str]:
    async with TextStream(writer, 0.01) as text:
        async for piece in text.deltas():
            yield piece


def test_closing_the_reader_cancels_the_work() -> None:
    writer = Writer(100_000)

    async def leave() -> None:
        pieces = stream(writer)
        await anext(pieces)
        await pieces.aclose()
        assert writer.ended

    asyncio.run(leave())
    assert writer.written < writer.letters


def test_end_of_the_reading_task_cancels_the_work() -> None:
    """As RunPod's SDK is while it hands a piece on. It forgets the generator, which is not told, and may live on for long."""
    writer = Writer(100_000)

    async def leave() -> None:
        pieces, reading = stream(writer), asyncio.Event()

        async def read_and_wait() -> None:
            await anext(pieces)
            reading.set()
            await asyncio.sleep(60)

        reader = asyncio.create_task(read_and_wait())
        await reading.wait()
        reader.cancel()
        while not writer.ended:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), 20))
    assert writer.written < writer.letters


def test_error_of_the_work_follows_the_last_delta() -> None:
    async def fail(progress: Progress) -> None:
        with progress:
            progress.report(1, 2, text="half")
        raise ValueError("no more")

    async def read_on() -> list[str]:
        pieces = []
        with contextlib.suppress(ValueError):
            async with TextStream(fail, 0.0) as text:
                pieces = [piece async for piece in text.deltas()]
                await text.result
                pieces.append("not reached")
        return pieces

    assert asyncio.run(read_on()) == ["half"]
