"""A server on this machine, for as long as a `with` block lasts: the receiver of the playground, and what tests have for services."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Self, TypeVar

D = TypeVar("D", bound="LoopbackServer")


class LoopbackServer:
    """Listens on a free port from when it is made, and answers inside a `with` block.

    Args:
        request: How a request is served.
        tls: Serve https with this certificate.

    Attributes:
        closing: Set when the block is left: who never answers, or without end, waits for it.
    """

    def __init__(self, request: type[RequestHandler[Any]], *, tls: ssl.SSLContext | None = None) -> None:
        self.closing = threading.Event()
        self._server = _Server(self, request, tls)
        self._scheme = "http" if tls is None else "https"
        name, often = type(self).__name__, {"poll_interval": 0.02}
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, kwargs=often, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Of this machine, and free until now."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def on_connection(self) -> None:
        """Called when a connection is made, before it is served."""


class RequestHandler(BaseHTTPRequestHandler, Generic[D]):
    """One connection to `D`, kept for the next request unless that is told otherwise."""

    protocol_version = "HTTP/1.1"

    @property
    def service(self) -> D:
        """Whose request it is."""
        assert isinstance(self.server, _Server)
        service: D = self.server.service
        return service

    def body(self) -> bytes:
        """What was sent along. Can be read once."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def respond(self, status: int, content: bytes, content_type: str = "application/json") -> None:
        """Sends a whole answer."""
        self.send_head(status, {"Content-Type": content_type, "Content-Length": str(len(content))})
        self.wfile.write(content)

    def respond_json(self, status: int, content: object) -> None:
        """Sends an answer in JSON."""
        self.respond(status, json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: what arrived is kept."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: Any, request: type[RequestHandler[Any]], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), request)
        self.service = service
        self._tls = tls

    def process_request(self, request: Any, client_address: Any) -> None:
        self.service.on_connection()
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up, or is ended, is no event."""
