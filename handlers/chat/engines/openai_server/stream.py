"""A completion streamed by an OpenAI-compatible server: read on an event loop, consumed on the job's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event
from types import TracebackType
from typing import Any, Self

import httpx
from httpx_sse import EventSource, SSEError

from handlers.chat.engine import DELTA_INTERVAL, Completion, Delta
from handlers.chat.engines.openai_server.assembly import CompletionAssembly
from handlers.chat.engines.openai_server.failures import RequestContext, server_failed, stream_interrupted, to_job_error
from handlers.chat.engines.openai_server.protocol import parse_chunk
from shared.errors import JobError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.streaming.queue import StreamQueue

# Seconds between two checks of the cancel token while no chunk arrives.
_POLL_INTERVAL = 0.05
# Seconds to wait for the connection to close.
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True)
class CompletionRequest:
    """A request to the server.

    Attributes:
        path: The route.
        body: The JSON body.
        context: What error messages are about.
        stop: Stop strings that the server is not asked to look for.
        min_tokens: Until so many tokens, none of these ends the completion.
        transcript: Whether a base model continues a transcript: leading space is removed, and repetition ends the completion.
    """

    path: str
    body: Mapping[str, Any] = field(repr=False)
    context: RequestContext
    stop: tuple[str, ...] = field(default=(), repr=False)
    min_tokens: int = 0
    transcript: bool = False


class OpenAIServerStream:
    """A completion while the server generates it, as an engine's `CompletionStream`.

    Args:
        request: The request.
        cancel: The job's cancel token.
        loop: The event loop that reads the connection.
        client: A client of the server.
        slots: Limits the completions that run at once.
        on_trouble: Called when the server fails.
    """

    def __init__(
        self,
        request: CompletionRequest,
        cancel: CancelToken,
        loop: asyncio.AbstractEventLoop,
        client: httpx.AsyncClient,
        slots: asyncio.Semaphore,
        on_trouble: Callable[[], None] = lambda: None,
    ) -> None:
        self._request = request
        self._client = client
        self._slots = slots
        self._cancel = cancel
        self._on_trouble = on_trouble
        self._deltas: StreamQueue[Delta] = StreamQueue()
        self._disconnected = Event()
        self._assembly = CompletionAssembly(request.stop, min_tokens=request.min_tokens, transcript=request.transcript)
        self._completion: Completion | None = None
        self._submitted = time.perf_counter()
        self._time_to_first_token: float | None = None
        self._reading: Future[None] = asyncio.run_coroutine_threadsafe(self._read(), loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connection, which makes the server abort an unfinished completion."""
        self._reading.cancel()
        self._disconnected.wait(_CLOSE_TIMEOUT)

    @property
    def completion(self) -> Completion:
        """The finished completion."""
        if self._completion is None:
            raise RuntimeError("the completion is not finished")
        return self._completion

    def fail(self, error: JobError) -> None:
        """Ends the stream with an error, unless it has ended."""
        self._deltas.close(error)

    def __iter__(self) -> Iterator[Delta]:
        """Yields deltas as they arrive, merging those that arrive within the same interval.

        Raises:
            JobError: The server or the connection failed, or the job was cancelled.
        """
        for deltas in self._deltas.batches(DELTA_INTERVAL, timeout=_POLL_INTERVAL):
            self._cancel.check()
            if deltas:
                yield Delta.merged(deltas)
        seconds = time.perf_counter() - self._submitted
        first = seconds if self._time_to_first_token is None else self._time_to_first_token
        self._completion = self._assembly.finish(seconds, first)

    # Event loop

    async def _read(self) -> None:
        with self._deltas:
            try:
                async with self._slots, self._client.stream("POST", self._request.path, json=self._request.body) as response:
                    if response.status_code != httpx.codes.OK:
                        raise to_job_error(response.status_code, await response.aread(), self._request.context)
                    response.encoding = "utf-8"
                    await self._read_events(EventSource(response))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self._on_trouble()
                raise server_failed() from None
            except (httpx.TransportError, SSEError):
                self._on_trouble()
                raise stream_interrupted() from None
            except JobError as error:
                if error.retryable:
                    self._on_trouble()
                raise
            finally:
                self._disconnected.set()

    async def _read_events(self, source: EventSource) -> None:
        async for event in source.aiter_sse():
            if event.data == "[DONE]":
                return
            delta = self._assembly.add(parse_chunk(event.data, self._request.context))
            if delta is not None:
                if self._time_to_first_token is None:
                    self._time_to_first_token = time.perf_counter() - self._submitted
                self._deltas.put(delta)
            if self._assembly.ended:
                return  # closes the connection
