"""A fake OpenAI-compatible inference server on loopback, modelled on vLLM. Tests script its responses."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playground.loopback import LoopbackServer, RequestHandler

MODEL = "Qwen/Qwen2.5-7B-Instruct"


class ScriptedRequest:
    """A completion request, and the means to respond to it.

    Attributes:
        body: The JSON body.
    """

    def __init__(self, handler: RequestHandler[Any], body: dict[str, Any]) -> None:
        self.body = body
        self._handler = handler

    def refuse(self, status: int, body: object) -> None:
        """Sends an error response: a string as it is, anything else as JSON."""
        self._send_head(status, "application/json")
        self.send((body if isinstance(body, str) else json.dumps(body)).encode())
        self.end()

    def start_stream(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        self._send_head(200, content_type)

    def chunk(self, text: str | None = None, finish_reason: str | None = None, *, size: int | None = None) -> None:
        """Sends one chunk; with `size`, in writes of that many bytes."""
        delta = {} if text is None else {"content": text}
        self.event(
            {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}, size
        )

    def usage(self, prompt: int = 9, completion: int = 3, cached: int | None = None) -> None:
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
        self.event({"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": counts})

    def event(self, content: object, size: int | None = None) -> None:
        data = f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
        for start in range(0, len(data), size or len(data)):
            self.send(data[start : start + (size or len(data))])

    def done(self) -> None:
        self.send(b"data: [DONE]\n\n")
        self.end()

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._handler.wfile.flush()

    def end(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        """Closes the connection without ending the response."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_disconnect(self, timeout: float = 60.0) -> bool:
        """Returns whether the client has closed the connection within `timeout` seconds."""
        self._handler.connection.settimeout(timeout)
        try:
            return not self._handler.connection.recv(1)
        except (TimeoutError, ConnectionError) as error:
            return isinstance(error, ConnectionError)

    def _send_head(self, status: int, content_type: str) -> None:
        self._handler.send_head(status, {"Content-Type": content_type, "Transfer-Encoding": "chunked"})


Script = Callable[[ScriptedRequest], None]


def reply(*texts: str, reason: str = "stop", size: int | None = None) -> Script:
    """Returns a script that streams a complete response, one chunk per text."""

    def script(request: ScriptedRequest) -> None:
        request.start_stream()
        for text in texts:
            request.chunk(text, size=size)
        request.chunk(finish_reason=reason)
        request.usage(completion=len(texts))
        request.done()

    return script


class OpenAIServer(LoopbackServer):
    """Runs one script per request, in order, and replies `Hello.` once there are none left.

    Attributes:
        scripts: The scripts for the next requests.
        requests: The bodies of all completion requests.
        health: The statuses that `/health` returns in turn; the last one repeats.
        models: The entries that `/v1/models` lists.
        token_count: The count that `/tokenize` returns; None: the route does not exist.
        max_in_flight: The largest number of concurrent requests so far.
    """

    def __init__(self) -> None:
        super().__init__(_Request)
        self.scripts: deque[Script] = deque()
        self.requests: list[dict[str, Any]] = []
        self.health: deque[int] = deque([200])
        self.models: Sequence[Mapping[str, Any]] = [{"id": MODEL, "object": "model", "max_model_len": 1000}]
        self.token_count: int | None = None
        self.max_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    # Called by request handlers

    def serve(self, handler: RequestHandler[Any], body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            script = self.scripts.popleft() if self.scripts else reply("Hello", ".")
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            script(ScriptedRequest(handler, body))
        finally:
            with self._lock:
                self._in_flight -= 1

    def next_health(self) -> int:
        return self.health.popleft() if len(self.health) > 1 else self.health[0]


class _Request(RequestHandler[OpenAIServer]):
    def do_GET(self) -> None:
        if self.path == "/health":
            self.respond_json(self.service.next_health(), {})
        else:
            self.respond_json(200, {"object": "list", "data": self.service.models})

    def do_POST(self) -> None:
        body, token_count = json.loads(self.body()), self.service.token_count
        if self.path == "/v1/chat/completions":
            self.service.serve(self, body)
        elif token_count is None:
            self.respond_json(404, {})
        else:
            self.respond_json(200, {"count": token_count, "max_model_len": 1000, "tokens": []})
