"""An HTTP server on loopback as a context manager: the base of the demo's callback receiver and of the tests' fake services."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Self, TypeVar

S = TypeVar("S", bound="LoopbackServer")


class LoopbackServer:
    """Binds a free port on construction and serves requests inside a `with` block.

    Args:
        request_handler: Handles one connection.
        tls: Serves https with this certificate.

    Attributes:
        closing: Set when the block is left. Handlers that respond late, endlessly or never wait for it.
    """

    def __init__(self, request_handler: type[RequestHandler[Any]], *, tls: ssl.SSLContext | None = None) -> None:
        self.closing = threading.Event()
        self._server = _Server(self, request_handler, tls)
        self._scheme = "http" if tls is None else "https"
        name, options = type(self).__name__, {"poll_interval": 0.02}
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, kwargs=options, daemon=True)

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
        """The port that the server listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def on_connection(self) -> None:
        """Called for every accepted connection, before its first request is handled."""


class RequestHandler(BaseHTTPRequestHandler, Generic[S]):
    """Handles one connection to a server of type `S`, persistent by default."""

    protocol_version = "HTTP/1.1"

    @property
    def service(self) -> S:
        """The server that received the request."""
        assert isinstance(self.server, _Server)
        service: S = self.server.service
        return service

    def body(self) -> bytes:
        """Reads the request body. It can be read once."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the status line and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def respond(self, status: int, content: bytes, content_type: str = "application/json") -> None:
        """Sends a complete response."""
        self.send_head(status, {"Content-Type": content_type, "Content-Length": str(len(content))})
        self.wfile.write(content)

    def respond_json(self, status: int, content: object) -> None:
        """Sends a complete JSON response."""
        self.respond(status, json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Suppresses the access log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: Any, request_handler: type[RequestHandler[Any]], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), request_handler)
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
        """Ignores errors of aborted connections."""
