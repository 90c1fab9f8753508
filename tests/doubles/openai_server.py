"""A server that speaks OpenAI's protocol on loopback, as vLLM does: every answer is what a test has scripted."""

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
    """A request for an answer, and the means to give one."""

    def __init__(self, request: RequestHandler[Any], body: dict[str, Any]) -> None:
        self.body = body
        self._request = request

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
        self._request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self._request.wfile.flush()

    def end(self) -> None:
        self._request.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        """Closes the connection in the middle of whatever was being said."""
        self._request.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_leave(self, seconds: float = 20.0) -> bool:
        """Says nothing until the other side has closed the connection."""
        self._request.connection.settimeout(seconds)
        try:
            return not self._request.connection.recv(1)
        except (TimeoutError, ConnectionError) as error:
            return isinstance(error, ConnectionError)

    def _begin(self, status: int, content_type: str) -> None:
        self._request.send_head(status, {"Content-Type": content_type, "Transfer-Encoding": "chunked"})


Script = Callable[[ScriptedRequest], None]


def reply(*texts: str, reason: str = "stop", size: int | None = None) -> Script:
    """A whole answer in chunks."""

    def script(asked: ScriptedRequest) -> None:
        asked.begin()
        for text in texts:
            asked.chunk(text, size=size)
        asked.chunk(finish_reason=reason)
        asked.usage(completion=len(texts))
        asked.done()

    return script


class OpenAIServer(LoopbackServer):
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
        super().__init__(_Request)
        self.scripts: deque[Script] = deque()
        self.asked: list[dict[str, Any]] = []
        self.health: deque[int] = deque([200])
        self.models: Sequence[Mapping[str, Any]] = [{"id": MODEL, "object": "model", "max_model_len": 1000}]
        self.counts: int | None = None
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    # What the server calls

    def serve(self, request: RequestHandler[Any], body: dict[str, Any]) -> None:
        with self._lock:
            self.asked.append(body)
            script = self.scripts.popleft() if self.scripts else reply("Hello", ".")
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            script(ScriptedRequest(request, body))
        finally:
            with self._lock:
                self._now -= 1

    def look(self) -> int:
        return self.health.popleft() if len(self.health) > 1 else self.health[0]


class _Request(RequestHandler[OpenAIServer]):
    def do_GET(self) -> None:
        if self.path == "/health":
            self.respond_json(self.service.look(), {})
        else:
            self.respond_json(200, {"object": "list", "data": self.service.models})

    def do_POST(self) -> None:
        body, counts = json.loads(self.body()), self.service.counts
        if self.path == "/v1/chat/completions":
            self.service.serve(self, body)
        elif counts is None:
            self.respond_json(404, {})
        else:
            self.respond_json(200, {"count": counts, "max_model_len": 1000, "tokens": []})
