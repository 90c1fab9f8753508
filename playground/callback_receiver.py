"""A receiver of callbacks on this machine: it keeps what arrives and checks how it is signed."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from playground.loopback import LoopbackServer, RequestHandler
from shared.webhooks import WebhookInvalid, verify


@dataclass(frozen=True, slots=True)
class ReceivedCallback:
    """One request that arrived.

    Attributes:
        path: Where it was sent, with the query.
        headers: By their names in lower case.
        body: Byte by byte.
        problem: What is wrong with its signatures, None when they hold.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    problem: str | None

    @property
    def verified(self) -> bool:
        """Whether both signatures hold."""
        return self.problem is None

    @property
    def payload(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class CannedResponse:
    """How the inbox answers one request.

    Attributes:
        status: Of the answer.
        headers: Beside the usual ones.
        delay: Seconds to wait before it.
        reset: Break the connection instead of answering.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False


class CallbackReceiver(LoopbackServer):
    """Receives callbacks on loopback, inside a `with` block.

    Args:
        secret: `JOB_CALLBACK_SECRET`.
        answers: Given one after the other; then 200 for good.
        on_callback: Called with each request, before it is answered, on the thread that serves it.
    """

    def __init__(self, secret: str, *, responses: Iterable[CannedResponse] = (), on_callback: Callable[[ReceivedCallback], None] | None = None) -> None:
        super().__init__(_Request)
        self.secret = secret
        self._responses = deque(responses)
        self._on_message = on_callback
        self._messages: list[ReceivedCallback] = []
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """Where to send callbacks."""
        return f"{super().url}/job-callback"

    @property
    def messages(self) -> list[ReceivedCallback]:
        """What has arrived so far, in order."""
        with self._changed:
            return list(self._messages)

    @property
    def payloads(self) -> list[Any]:
        """The payloads that have arrived with signatures that hold, in order."""
        return [message.payload for message in self.messages if message.verified]

    def respond_with(self, responses: Iterable[CannedResponse]) -> None:
        """Gives these answers to the next requests, one after the other; then 200 again."""
        with self._changed:
            self._responses = deque(responses)

    def recover(self) -> None:
        """Forgets how the next requests were to be answered: 200 from now on."""
        with self._changed:
            self._responses.clear()

    def wait_for(self, count: int, *, timeout: float = 30.0) -> list[ReceivedCallback]:
        """Waits until so many requests have arrived.

        Args:
            count: How many, since the inbox was opened.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: Fewer have arrived by then.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._messages) >= count, timeout):
                raise TimeoutError(f"{len(self._messages)} of {count} callbacks arrived within {timeout:g} seconds.")
            return list(self._messages)

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> CannedResponse:
        """Keeps a request and says how to answer it."""
        lowered = {name.lower(): value for name, value in headers.items()}
        message = ReceivedCallback(path, lowered, body, self._problem_of(lowered, body))
        if self._on_message is not None:
            self._on_message(message)
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
            answer = self._responses.popleft() if self._responses else CannedResponse()
        self.closing.wait(answer.delay)
        return answer

    def _problem_of(self, headers: Mapping[str, str], body: bytes) -> str | None:
        try:
            verify(headers, body, self.secret)
        except WebhookInvalid as error:
            return str(error)
        return None


class _Request(RequestHandler[CallbackReceiver]):
    def do_POST(self) -> None:
        """Receives one callback."""
        answer = self.service.receive(self.path, dict(self.headers), self.body())
        if answer.reset:
            self._reset()
            return
        content = b'{"received": true}'
        self.send_head(answer.status, {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers})
        self.wfile.write(content)

    def _reset(self) -> None:
        # With no time to linger, closing sends a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
