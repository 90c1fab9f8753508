"""The connection to one inference server: an event loop on a thread of its own, which reads all streams."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable

import httpx

from handlers.chat.engines.openai_server.stream import CompletionRequest, OpenAIServerStream
from shared.errors import JobError
from shared.jobs.execution.cancel import CancelToken

CONNECT_TIMEOUT = 5.0
_REQUEST_TIMEOUT = 30.0


class ServerConnection:
    """Requests completions from one server. Thread-safe.

    Args:
        url: The server's base URL.
        max_concurrency: The number of completions to request at once.
        on_trouble: Called when the server has failed to respond, from any thread.
    """

    def __init__(self, url: str, max_concurrency: int, on_trouble: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self.on_trouble = on_trouble
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-engine", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(max_concurrency)
        # No read timeout: a busy server may pause between two tokens, and the job's own deadline limits the wait.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        # A new connection per completion: a pooled one may be closed by the server at the moment it is reused.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)
        self._lock = threading.Lock()  # guards `_streams` and `_error`
        self._streams: weakref.WeakSet[OpenAIServerStream] = weakref.WeakSet()
        self._error: JobError | None = None

    def open(self, request: CompletionRequest, cancel: CancelToken) -> OpenAIServerStream:
        """Requests a completion.

        Raises:
            JobError: The server has failed before.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            stream = OpenAIServerStream(request, cancel, self._loop, self._client, self._slots, lambda: self.on_trouble())
            self._streams.add(stream)
            return stream

    def fail(self, error: JobError) -> None:
        """Ends all streams with an error, and accepts no more requests."""
        with self._lock:
            self._error = self._error or error
            streams = list(self._streams)
        for stream in streams:
            stream.fail(error)

    def close(self) -> None:
        """Closes all connections."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(CONNECT_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def create_client(url: str) -> httpx.Client:
    """Returns a blocking client for short requests to a server on this machine."""
    return httpx.Client(base_url=url, timeout=httpx.Timeout(_REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT), trust_env=False)
