"""One answer of an OpenAI-compatible server: an event loop reads it, the job's thread takes what has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event
from types import TracebackType
from typing import Any, Literal, Self

import httpx
from httpx_sse import EventSource, SSEError

from handlers.chat.engine import Finished, Piece
from handlers.chat.engines.openai_server.protocol import Usage, broken_off, ensure_json, read_chunk, refusal
from shared.errors import ContextLengthExceeded, DeviceError
from shared.jobs.execution.cancel import CancelToken

COMPLETIONS = "/v1/chat/completions"
# Seconds between two looks at whether the job was stopped, while nothing comes.
_LOOK = 0.05
# Seconds that the closing of a connection may take.
_CLOSING = 5.0


@dataclass(frozen=True)
class Asked:
    """What a server is asked for.

    Attributes:
        body: The request.
        too_long: What to say where the server finds that the conversation does not fit.
        is_json: Whether an answer that the model has ended is JSON: some servers take `response_format` and do nothing about it.
    """

    body: Mapping[str, Any] = field(repr=False)
    too_long: ContextLengthExceeded
    is_json: bool = False


class HttpStream:
    """One answer while it is written.

    Args:
        asked: What to write.
        cancel: The job's.
        loop: Where the connection is read.
        client: Leads to the server.
        places: Holds one place for each answer that may be written at once.
    """

    def __init__(
        self, asked: Asked, cancel: CancelToken, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient, places: asyncio.Semaphore
    ) -> None:
        self._asked = asked
        self._client = client
        self._places = places
        self._cancel = cancel
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()
        self._closed = Event()
        self._text: list[str] = []
        self._reason: Literal["stop", "length"] | None = None
        self._usage: Usage | None = None
        self._first: float | None = None
        self._finished: Finished | None = None
        self._started = time.perf_counter()
        self._reading: Future[None] = asyncio.run_coroutine_threadsafe(self._read(), loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connection, by which the server learns that nobody reads any more."""
        self._reading.cancel()
        self._closed.wait(_CLOSING)

    @property
    def finished(self) -> Finished:
        """The whole answer."""
        if self._finished is None:
            raise RuntimeError("the answer is not finished")
        return self._finished

    def __iter__(self) -> Iterator[Piece]:
        """Yields each piece as it comes, to the end.

        Raises:
            JobError: There is no answer.
        """
        while True:
            self._cancel.check()
            try:
                piece = self._pieces.get(timeout=_LOOK)
            except Empty:
                continue
            if piece is None:
                break
            yield piece
        self._reading.result()
        self._finished = self._finish()

    def _finish(self) -> Finished:
        if self._reason is None or self._usage is None:
            raise broken_off()
        if self._asked.is_json and self._reason == "stop":
            ensure_json("".join(self._text))
        details, seconds = self._usage.prompt_tokens_details, time.perf_counter() - self._started
        return Finished(
            text="".join(self._text),
            finish_reason=self._reason,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            seconds=seconds,
            time_to_first_token=seconds if self._first is None else self._first,
            cached_tokens=(details.cached_tokens if details is not None else None) or 0,
        )

    # On the loop

    async def _read(self) -> None:
        try:
            async with self._places, self._client.stream("POST", COMPLETIONS, json=self._asked.body) as response:
                if response.status_code != httpx.codes.OK:
                    raise refusal(response.status_code, await response.aread(), self._asked.too_long)
                response.encoding = "utf-8"
                await self._take_events(EventSource(response))
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise DeviceError("The engine beside this worker is gone; the worker is replaced. Send the job again.") from None
        except (httpx.TransportError, SSEError):
            raise broken_off() from None
        finally:
            self._closed.set()
            self._pieces.put(None)

    async def _take_events(self, source: EventSource) -> None:
        async for event in source.aiter_sse():
            if event.data == "[DONE]":
                return
            chunk = read_chunk(event.data, self._asked.too_long)
            self._usage = chunk.usage or self._usage
            self._reason = chunk.finish_reason or self._reason
            if chunk.text:
                self._first = self._first or time.perf_counter() - self._started
                self._text.append(chunk.text)
                tokens = chunk.usage.completion_tokens if chunk.usage is not None else len(self._text)
                self._pieces.put(Piece(chunk.text, tokens))
