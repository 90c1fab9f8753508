"""A host of pictures on loopback, well-behaved or not: each path behaves as it is told."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping

from playground.loopback import LoopbackServer, RequestHandler

Behaviour = Callable[["Handler"], None]


def answers(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answers as it should. Headers that are given win over its own."""

    def behave(handler: Handler) -> None:
        handler.send_head(status, {"Content-Length": str(len(body)), **(headers or {})})
        handler.wfile.write(body)

    return behave


def redirects(location: str, *, status: int = 302) -> Behaviour:
    """Sends the caller elsewhere."""
    return answers(b"", status=status, headers={"Location": location})


def drips(head: bytes, drop: bytes, *, seconds: float = 0.05) -> Behaviour:
    """Sends raw bytes, then one drop after another for ever. No single read ever waits long."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.service.closing.wait(seconds):
            handler.wfile.write(drop)

    return behave


def floods(head: bytes, drop: bytes) -> Behaviour:
    """Sends raw bytes, then more for ever, as fast as they are taken."""
    return drips(head, drop, seconds=0.0)


def hangs(handler: Handler) -> None:
    """Never answers."""
    handler.service.closing.wait()


def resets(handler: Handler) -> None:
    """Breaks the connection instead of answering."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stops_short(body: bytes) -> Behaviour:
    """Announces more than it sends."""
    return answers(body, headers={"Content-Length": str(len(body) + 1000)})


class ImageServer(LoopbackServer):
    """Serves what it is told to, inside a `with` block.

    Args:
        tls: Serve https with this certificate.

    Attributes:
        requests: Path and headers (names in lower case) of each request, in order.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(Handler, tls=tls)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._paths: dict[str, deque[Behaviour]] = {}

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Serves a path: each request by the next behaviour, all further ones by the last. Returns its URL."""
        self._paths[path] = deque(behaviours)
        return self.url + path

    def behave(self, handler: Handler) -> None:
        """Serves one request."""
        self.requests.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
        behaviours = self._paths.get(handler.path.partition("?")[0], deque([answers(b"not here", status=404)]))
        (behaviours.popleft() if len(behaviours) > 1 else behaviours[0])(handler)


class Handler(RequestHandler[ImageServer]):
    """One request."""

    protocol_version = "HTTP/1.0"  # its connections are not kept

    def do_GET(self) -> None:
        self.service.behave(self)
