"""`/openai/v1/…` on loopback, as RunPod offers it to clients of OpenAI's API: a call becomes a job of a gateway.

The pieces of a stream are handed on as they come, an output as one object. What RunPod answers for a job that failed was not observed: here
it is status 500 with the job's error as its body.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from playground.loopback import LoopbackServer, RequestHandler
from tests.doubles.fake_runpod import FakeRunPodAPI


class OpenAIProxy(LoopbackServer):
    """Makes jobs of calls, and answers of what comes back.

    Attributes:
        jobs: The ids of the jobs that it has made, in order.
    """

    def __init__(self, runpod_api: FakeRunPodAPI) -> None:
        super().__init__(_Request)
        self.jobs: list[str] = []
        self.runpod_api = runpod_api
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"{super().url}/v2/endpoint/openai/v1"

    def ask(self, path: str, body: Any) -> str:
        """Queues the job of a call and returns its id."""
        job_id = f"openai-{next(self._numbers)}"
        self.jobs.append(job_id)
        self.runpod_api.submit({"id": job_id, "input": {"openai_route": path.partition("/openai")[2], "openai_input": body}})
        return job_id

    def pieces(self, job_id: str) -> Iterator[str]:
        """The texts of a stream as they arrive, until the job has its result."""
        runpod_api, sent, ended = self.runpod_api, 0, False
        while not ended:
            runpod_api.wait_for(partial(self._has_more, job_id, sent), what=job_id)
            ended, streamed = bool(runpod_api.results(job_id)), runpod_api.streamed(job_id)
            yield from (piece for piece in streamed[sent:] if isinstance(piece, str))
            sent = len(streamed)

    def _has_more(self, job_id: str, sent: int) -> bool:
        return len(self.runpod_api.streamed(job_id)) > sent or bool(self.runpod_api.results(job_id))


class _Request(RequestHandler[OpenAIProxy]):
    def do_GET(self) -> None:
        self._whole(self.service.ask(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.body())
        job_id = self.service.ask(self.path, body)
        self._stream(job_id) if body.get("stream") else self._whole(job_id)

    def _whole(self, job_id: str) -> None:
        result = self.service.runpod_api.result(job_id)
        failed, output = "error" in result, result.get("output")
        content = result["error"] if failed else json.dumps(output[0] if isinstance(output, list) else output)
        self._begin(500 if failed else 200, "application/json")
        self.wfile.write(content.encode())

    def _stream(self, job_id: str) -> None:
        self._begin(200, "text/event-stream")
        with contextlib.suppress(ConnectionError):
            for piece in self.service.pieces(job_id):
                self.wfile.write(piece.encode())

    def _begin(self, status: int, content_type: str) -> None:
        self.close_connection = True
        self.send_head(status, {"Content-Type": content_type, "Connection": "close"})
