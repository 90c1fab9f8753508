"""`/openai/v1/…` on loopback, as RunPod offers it to clients of OpenAI's API: a call becomes a job of a gateway.

The pieces of a stream are handed on as they come, an output as one object. What RunPod answers for a job that failed was not observed: here
it is status 500 with the job's error as its body.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.doubles.gateway import Gateway


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has read enough hangs up."""


class OpenAIProxy:
    """Makes jobs of calls, and answers of what comes back.

    Attributes:
        jobs: The ids of the jobs that it has made, in order.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.jobs: list[str] = []
        self.gateway = gateway
        self._numbers = itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="openai", kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._server.server_port}/v2/endpoint/openai/v1"

    def ask(self, path: str, body: Any) -> str:
        """Queues the job of a call and returns its id."""
        job_id = f"openai-{next(self._numbers)}"
        self.jobs.append(job_id)
        self.gateway.submit({"id": job_id, "input": {"openai_route": path.partition("/openai")[2], "openai_input": body}})
        return job_id

    def pieces(self, job_id: str) -> Iterator[str]:
        """The texts of a stream as they arrive, until the job has its result."""
        gateway, sent, ended = self.gateway, 0, False
        while not ended:
            gateway.wait_for(partial(self._has_more, job_id, sent), what=job_id)
            ended, streamed = bool(gateway.results(job_id)), gateway.streamed(job_id)
            yield from (piece for piece in streamed[sent:] if isinstance(piece, str))
            sent = len(streamed)

    def _has_more(self, job_id: str, sent: int) -> bool:
        return len(self.gateway.streamed(job_id)) > sent or bool(self.gateway.results(job_id))


def _handler(proxy: OpenAIProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._whole(proxy.ask(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            job_id = proxy.ask(self.path, body)
            self._stream(job_id) if body.get("stream") else self._whole(job_id)

        def _whole(self, job_id: str) -> None:
            result = proxy.gateway.result(job_id)
            failed, output = "error" in result, result.get("output")
            content = result["error"] if failed else json.dumps(output[0] if isinstance(output, list) else output)
            self._begin(500 if failed else 200, "application/json")
            self.wfile.write(content.encode())

        def _stream(self, job_id: str) -> None:
            self._begin(200, "text/event-stream")
            with contextlib.suppress(ConnectionError):
                for piece in proxy.pieces(job_id):
                    self.wfile.write(piece.encode())

        def _begin(self, status: int, content_type: str) -> None:
            self.close_connection = True
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Keeps the test's output quiet."""

    return Handler
