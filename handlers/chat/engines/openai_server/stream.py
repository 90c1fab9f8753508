"""A completion streamed by an OpenAI-compatible server: read on an event loop, consumed on the job's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty
from threading import Event
from types import TracebackType
from typing import Any, Self

import httpx
from httpx_sse import EventSource, SSEError

from handlers.chat.engine import Completion, Delta, FinishReason
from handlers.chat.engines.openai_server.protocol import Usage, ensure_json, parse_chunk, stream_interrupted, to_job_error
from shared.errors import ContextLengthExceeded, DeviceError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.streaming.queue import EndOfStream, StreamQueue

COMPLETIONS_PATH = "/v1/chat/completions"
# Seconds between two checks of the cancel token while no chunk arrives.
_POLL_INTERVAL = 0.05
# Seconds to wait for the connection to close.
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True)
class CompletionRequest:
    """A request to the server.

    Attributes:
        body: The JSON body.
        too_long: The error to raise if the server finds that the conversation exceeds the context window.
        ensure_json: Whether to verify that an untruncated completion is JSON: some servers accept `response_format` and ignore it.
    """

    body: Mapping[str, Any] = field(repr=False)
    too_long: ContextLengthExceeded
    ensure_json: bool = False


class OpenAIServerStream:
    """A completion while the server generates it, as an engine's `CompletionStream`.

    Args:
        request: The request.
        cancel: The job's cancel token.
        loop: The event loop that reads the connection.
        client: A client of the server.
        slots: Limits the completions that run at once.
    """

    def __init__(
        self,
        request: CompletionRequest,
        cancel: CancelToken,
        loop: asyncio.AbstractEventLoop,
        client: httpx.AsyncClient,
        slots: asyncio.Semaphore,
    ) -> None:
        self._request = request
        self._client = client
        self._slots = slots
        self._cancel = cancel
        self._deltas: StreamQueue[Delta] = StreamQueue()
        self._disconnected = Event()
        self._text: list[str] = []
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._time_to_first_token: float | None = None
        self._completion: Completion | None = None
        self._submitted = time.perf_counter()
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

    def __iter__(self) -> Iterator[Delta]:
        """Yields deltas as they arrive, to the end.

        Raises:
            JobError: The server or the connection failed, or the job was cancelled.
        """
        while True:
            self._cancel.check()
            try:
                delta = self._deltas.get(timeout=_POLL_INTERVAL)
            except Empty:
                continue
            except EndOfStream:
                break
            yield delta
        self._completion = self._finish()

    def _finish(self) -> Completion:
        if self._finish_reason is None or self._usage is None:
            raise stream_interrupted()
        text = "".join(self._text)
        if self._request.ensure_json and self._finish_reason == "stop":
            ensure_json(text)
        details, seconds = self._usage.prompt_tokens_details, time.perf_counter() - self._submitted
        return Completion(
            text=text,
            finish_reason=self._finish_reason,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            seconds=seconds,
            time_to_first_token=seconds if self._time_to_first_token is None else self._time_to_first_token,
            cached_tokens=(details.cached_tokens if details is not None else None) or 0,
        )

    # Event loop

    async def _read(self) -> None:
        with self._deltas:
            try:
                async with self._slots, self._client.stream("POST", COMPLETIONS_PATH, json=self._request.body) as response:
                    if response.status_code != httpx.codes.OK:
                        raise to_job_error(response.status_code, await response.aread(), self._request.too_long)
                    response.encoding = "utf-8"
                    await self._read_events(EventSource(response))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                raise DeviceError("The inference server does not respond; the worker is replaced. Send the job again.") from None
            except (httpx.TransportError, SSEError):
                raise stream_interrupted() from None
            finally:
                self._disconnected.set()

    async def _read_events(self, source: EventSource) -> None:
        async for event in source.aiter_sse():
            if event.data == "[DONE]":
                return
            chunk = parse_chunk(event.data, self._request.too_long)
            self._usage = chunk.usage or self._usage
            self._finish_reason = chunk.finish_reason or self._finish_reason
            if chunk.text:
                if self._time_to_first_token is None:
                    self._time_to_first_token = time.perf_counter() - self._submitted
                self._text.append(chunk.text)
                # Without a count from the server, one token per chunk is the best estimate.
                tokens = chunk.usage.completion_tokens if chunk.usage is not None else len(self._text)
                self._deltas.put(Delta(chunk.text, tokens))
