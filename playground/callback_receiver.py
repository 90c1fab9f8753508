"""A callback receiver on loopback: records every request, verifies its signatures, and replies as configured."""

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
    """One recorded request.

    Attributes:
        path: The path with its query string.
        headers: By lower-case name.
        body: The raw body.
        problem: Why signature verification failed, or None if it succeeded.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    problem: str | None

    @property
    def verified(self) -> bool:
        """Whether both signatures are valid."""
        return self.problem is None

    @property
    def payload(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class CannedResponse:
    """A predefined response.

    Attributes:
        status: The HTTP status.
        headers: Additional headers.
        delay: Seconds to wait before responding.
        reset: Whether to reset the connection instead of responding.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False


class CallbackReceiver(LoopbackServer):
    """Receives callbacks on loopback inside a `with` block.

    Args:
        secret: `JOB_CALLBACK_SECRET`.
        responses: Responses to the first requests, in order; every later request gets 200.
        on_callback: Called with each request before it is responded to, on the thread that serves it.
    """

    def __init__(
        self,
        secret: str,
        *,
        responses: Iterable[CannedResponse] = (),
        on_callback: Callable[[ReceivedCallback], None] | None = None,
    ) -> None:
        super().__init__(_Handler)
        self.secret = secret
        self._responses = deque(responses)
        self._on_callback = on_callback
        self._messages: list[ReceivedCallback] = []
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """The callback URL."""
        return f"{super().url}/job-callback"

    @property
    def messages(self) -> list[ReceivedCallback]:
        """All recorded requests, in order."""
        with self._changed:
            return list(self._messages)

    @property
    def payloads(self) -> list[Any]:
        """The payloads of all requests with valid signatures, in order."""
        return [message.payload for message in self.messages if message.verified]

    def respond_with(self, responses: Iterable[CannedResponse]) -> None:
        """Sets the responses to the next requests, in order; every later request gets 200."""
        with self._changed:
            self._responses = deque(responses)

    def recover(self) -> None:
        """Discards the remaining canned responses: every request gets 200 from now on."""
        with self._changed:
            self._responses.clear()

    def wait_for(self, count: int, *, timeout: float = 30.0) -> list[ReceivedCallback]:
        """Blocks until this many requests have been recorded.

        Args:
            count: The number of requests since the receiver was created.
            timeout: In seconds.

        Raises:
            TimeoutError: Fewer requests were recorded by then.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._messages) >= count, timeout):
                raise TimeoutError(f"{len(self._messages)} of {count} callbacks arrived within {timeout:g} seconds.")
            return list(self._messages)

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> CannedResponse:
        """Records a request and returns the response to it."""
        lowered = {name.lower(): value for name, value in headers.items()}
        message = ReceivedCallback(path, lowered, body, verification_error(lowered, body, self.secret))
        if self._on_callback is not None:
            self._on_callback(message)
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
            response = self._responses.popleft() if self._responses else CannedResponse()
        self.closing.wait(response.delay)
        return response


def verification_error(headers: Mapping[str, str], body: bytes, secret: str) -> str | None:
    """Returns why the signatures of a callback are not valid; None if they are."""
    try:
        verify(headers, body, secret)
    except WebhookInvalid as error:
        return str(error)
    return None


class _Handler(RequestHandler[CallbackReceiver]):
    def do_POST(self) -> None:
        """Receives one callback."""
        response = self.service.receive(self.path, dict(self.headers), self.body())
        if response.reset:
            self._reset()
            return
        content = b'{"received": true}'
        self.send_head(response.status, {"Content-Type": "application/json", "Content-Length": str(len(content)), **response.headers})
        self.wfile.write(content)

    def _reset(self) -> None:
        # SO_LINGER with a timeout of zero makes close() send RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
