"""A host of pictures on loopback, well-behaved or not: each path behaves as it is told."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Behaviour = Callable[["Handler"], None]


def answers(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answers as it should. Headers that are given win over its own."""

    def behave(handler: Handler) -> None:
        handler.start(status, {"Content-Length": str(len(body)), **(headers or {})})
        handler.wfile.write(body)

    return behave


def redirects(location: str, *, status: int = 302) -> Behaviour:
    """Sends the caller elsewhere."""
    return answers(b"", status=status, headers={"Location": location})


def drips(head: bytes, drop: bytes, *, seconds: float = 0.05) -> Behaviour:
    """Sends raw bytes, then one drop after another for ever. No single read ever waits long."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.server.closing.wait(seconds):
            handler.wfile.write(drop)

    return behave


def pours(head: bytes, drop: bytes) -> Behaviour:
    """Sends raw bytes, then more for ever, as fast as they are taken."""
    return drips(head, drop, seconds=0.0)


def hangs(handler: Handler) -> None:
    """Never answers."""
    handler.server.closing.wait()


def resets(handler: Handler) -> None:
    """Breaks the connection instead of answering."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stops_short(body: bytes) -> Behaviour:
    """Announces more than it sends."""
    return answers(body, headers={"Content-Length": str(len(body) + 1000)})


class ReferenceHost:
    """Serves what it is told to, inside a `with` block.

    Args:
        tls: Serve https with this certificate.

    Attributes:
        requests: Path and headers (names in lower case) of each request, in order.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._paths: dict[str, deque[Behaviour]] = {}
        self._server = _Server(self, tls)
        self._scheme = "https" if tls is not None else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def origin(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def serve(self, path: str, *behaviours: Behaviour) -> str:
        """Serves a path: each request by the next behaviour, all further ones by the last. Returns its URL."""
        self._paths[path] = deque(behaviours)
        return self.origin + path

    def behave(self, handler: Handler) -> None:
        """Serves one request."""
        self.requests.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
        behaviours = self._paths.get(handler.path.partition("?")[0], deque([answers(b"not here", status=404)]))
        (behaviours.popleft() if len(behaviours) > 1 else behaviours[0])(handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: ReferenceHost, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = host
        self.closing = threading.Event()
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is what many tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server

    def do_GET(self) -> None:
        self.server.host.behave(self)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""
