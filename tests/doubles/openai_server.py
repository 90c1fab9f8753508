"""A server that speaks OpenAI's protocol on loopback, as vLLM does: every answer is what a test has scripted."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "Qwen/Qwen2.5-7B-Instruct"


class Asked:
    """A request for an answer, and the means to give one."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.body = body
        self._handler = handler

    def refuse(self, status: int, body: object) -> None:
        """Answers with an error; text goes out as it is."""
        self._begin(status, "application/json")
        self.send((body if isinstance(body, str) else json.dumps(body)).encode())
        self.end()

    def begin(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        self._begin(200, content_type)

    def chunk(self, text: str | None = None, finish_reason: str | None = None, *, size: int | None = None) -> None:
        """Sends one chunk; with `size`, in pieces of so many bytes."""
        delta = {} if text is None else {"content": text}
        self.event(
            {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}, size
        )

    def usage(self, prompt: int = 9, completion: int = 3, cached: int | None = None) -> None:
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
        self.event({"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": counted})

    def event(self, content: object, size: int | None = None) -> None:
        data = f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
        for at in range(0, len(data), size or len(data)):
            self.send(data[at : at + (size or len(data))])

    def done(self) -> None:
        self.send(b"data: [DONE]\n\n")
        self.end()

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def end(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        """Closes the connection in the middle of whatever was being said."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_leave(self, seconds: float = 20.0) -> bool:
        """Says nothing until the other side has closed the connection."""
        self._handler.connection.settimeout(seconds)
        try:
            return not self._handler.connection.recv(1)
        except (TimeoutError, ConnectionError) as error:
            return isinstance(error, ConnectionError)

    def _begin(self, status: int, content_type: str) -> None:
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", content_type)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()


Script = Callable[[Asked], None]


def say(*texts: str, reason: str = "stop", size: int | None = None) -> Script:
    """A whole answer in chunks."""

    def script(asked: Asked) -> None:
        asked.begin()
        for text in texts:
            asked.chunk(text, size=size)
        asked.chunk(finish_reason=reason)
        asked.usage(completion=len(texts))
        asked.done()

    return script


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has read enough hangs up."""


class OpenAIServer:
    """Serves one scripted answer after the other, then `Hello.` to all.

    Attributes:
        scripts: What happens to the next requests.
        asked: The bodies of all requests, in order.
        health: Statuses of `/health`; the last one stays.
        models: What `/v1/models` lists.
        counts: How many tokens `/tokenize` says a conversation has; None: there is no such route.
        most: The most requests that were being answered at once.
    """

    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.asked: list[dict[str, Any]] = []
        self.health: deque[int] = deque([200])
        self.models: Sequence[Mapping[str, Any]] = [{"id": MODEL, "object": "model", "max_model_len": 1000}]
        self.counts: int | None = None
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="server", kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What the server calls

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.asked.append(body)
            script = self.scripts.popleft() if self.scripts else say("Hello", ".")
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            script(Asked(handler, body))
        finally:
            with self._lock:
                self._now -= 1

    def look(self) -> int:
        return self.health.popleft() if len(self.health) > 1 else self.health[0]


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/health":
                self._whole(server.look(), {})
            else:
                self._whole(200, {"object": "list", "data": server.models})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/chat/completions":
                server.answer(self, body)
            elif server.counts is None:
                self._whole(404, {})
            else:
                self._whole(200, {"count": server.counts, "max_model_len": 1000, "tokens": []})

        def _whole(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Keeps the test's output quiet."""

    return Handler
