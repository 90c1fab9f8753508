"""An HTTP server for reference images on loopback. Each path has a configurable behavior, correct or faulty."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping

from playground.loopback import LoopbackServer, RequestHandler

Behaviour = Callable[["Handler"], None]


def answers(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Responds correctly. The given headers override the default ones."""

    def behave(handler: Handler) -> None:
        handler.send_head(status, {"Content-Length": str(len(body)), **(headers or {})})
        handler.wfile.write(body)

    return behave


def redirects(location: str, *, status: int = 302) -> Behaviour:
    """Redirects to another location."""
    return answers(b"", status=status, headers={"Location": location})


def drips(head: bytes, drop: bytes, *, seconds: float = 0.05) -> Behaviour:
    """Sends raw bytes, then small chunks forever, so that no single read times out (slow drip)."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.service.closing.wait(seconds):
            handler.wfile.write(drop)

    return behave


def floods(head: bytes, drop: bytes) -> Behaviour:
    """Sends raw bytes, then chunks forever, as fast as the client reads."""
    return drips(head, drop, seconds=0.0)


def hangs(handler: Handler) -> None:
    """Never responds."""
    handler.service.closing.wait()


def resets(handler: Handler) -> None:
    """Resets the connection instead of responding."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stops_short(body: bytes) -> Behaviour:
    """Sends fewer bytes than Content-Length announces."""
    return answers(body, headers={"Content-Length": str(len(body) + 1000)})


class ImageServer(LoopbackServer):
    """Serves configured paths inside a `with` block.

    Args:
        tls: Serves https with this certificate.

    Attributes:
        requests: Path and headers (names in lower case) of each request, in order.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(Handler, tls=tls)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._paths: dict[str, deque[Behaviour]] = {}

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Configures a path: each request uses the next behavior, all later ones the last. Returns the URL."""
        self._paths[path] = deque(behaviours)
        return self.url + path

    def behave(self, handler: Handler) -> None:
        """Applies the path's behavior to a request."""
        self.requests.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
        behaviours = self._paths.get(handler.path.partition("?")[0], deque([answers(b"not here", status=404)]))
        (behaviours.popleft() if len(behaviours) > 1 else behaviours[0])(handler)


class Handler(RequestHandler[ImageServer]):
    """Handles one request."""

    protocol_version = "HTTP/1.0"  # no persistent connections

    def do_GET(self) -> None:
        self.service.behave(self)
