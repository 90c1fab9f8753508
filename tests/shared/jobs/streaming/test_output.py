"""OutputStream: the work and its reader never block each other, and the end of either ends the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from shared.jobs.streaming.output import Emit, OutputStream


class Writer:
    """Emits a letter every few milliseconds."""

    def __init__(self, letters: int) -> None:
        self.letters = letters
        self.written = 0
        self.ended = False

    async def __call__(self, emit: Emit) -> int:
        try:
            while self.written < self.letters:
                self.written += 1
                await asyncio.to_thread(emit, "x")
                await asyncio.sleep(0.002)
            return self.written
        finally:
            self.ended = True


async def read(writer: Writer) -> list[str]:
    async with OutputStream(writer, 0.01) as output:
        batches = []
        async for pieces in output.batches():
            batches.append("".join(pieces))
        assert await output.result == writer.letters
    return batches


def test_batches_add_up_to_the_output() -> None:
    assert "".join(asyncio.run(read(Writer(100)))) == "x" * 100


def test_output_that_precedes_the_reader_is_one_batch() -> None:
    async def read_late() -> list[str]:
        async with OutputStream(Writer(30), 0.0) as output:
            await output.result
            return ["".join(pieces) async for pieces in output.batches()]

    assert asyncio.run(read_late()) == ["x" * 30]


def test_pieces_that_are_emitted_while_the_reader_is_busy_are_one_batch() -> None:
    async def scenario() -> None:
        busy, written, read = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def write(emit: Emit) -> None:
            emit("first")
            await busy.wait()
            for _ in range(99):
                await asyncio.to_thread(emit, "x")
            written.set()
            await read.wait()

        async with OutputStream(write, 0.0) as output:
            batches = output.batches()
            assert await anext(batches) == ["first"]
            busy.set()
            await written.wait()
            assert await anext(batches) == ["x"] * 99
            read.set()
            assert [batch async for batch in batches] == []

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_empty_output_has_no_batch() -> None:
    assert asyncio.run(read(Writer(0))) == []


async def stream(writer: Writer) -> AsyncGenerator[str]:
    async with OutputStream(writer, 0.01) as output:
        async for pieces in output.batches():
            yield "".join(pieces)


def test_closing_the_reader_cancels_the_work() -> None:
    writer = Writer(100_000)

    async def scenario() -> None:
        batches = stream(writer)
        await anext(batches)
        await batches.aclose()
        assert writer.ended

    asyncio.run(scenario())
    assert writer.written < writer.letters


def test_end_of_the_reading_task_cancels_the_work() -> None:
    """RunPod's SDK can be cancelled while it posts a chunk. It then drops the generator without closing it."""
    writer = Writer(100_000)

    async def scenario() -> None:
        batches, reading = stream(writer), asyncio.Event()

        async def read_and_wait() -> None:
            await anext(batches)
            reading.set()
            await asyncio.sleep(60)

        reader = asyncio.create_task(read_and_wait())
        await reading.wait()
        reader.cancel()
        while not writer.ended:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert writer.written < writer.letters


def test_error_of_the_work_follows_the_last_batch() -> None:
    async def fail(emit: Emit) -> None:
        emit("half")
        raise ValueError("no more")

    async def read_to_the_end() -> list[str]:
        batches = []
        with contextlib.suppress(ValueError):
            async with OutputStream(fail, 0.0) as output:
                batches = ["".join(pieces) async for pieces in output.batches()]
                await output.result
                batches.append("not reached")
        return batches

    assert asyncio.run(read_to_the_end()) == ["half"]
