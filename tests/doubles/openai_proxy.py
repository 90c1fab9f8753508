"""A fake of RunPod's `/openai/v1/…` proxy on loopback: every HTTP call becomes a job of a fake RunPod API.

Streamed outputs are passed through as they arrive, other outputs as one JSON object. RunPod's response to a failed job is not documented;
this proxy returns status 500 with the job's error as the body.
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
    """Submits a job per HTTP call and returns its output.

    Attributes:
        jobs: The ids of the submitted jobs, in order.
        runpod_api: The API that runs the jobs.
    """

    def __init__(self, runpod_api: FakeRunPodAPI) -> None:
        super().__init__(_Request)
        self.jobs: list[str] = []
        self.runpod_api = runpod_api
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{super().url}/v2/endpoint/openai/v1"

    def submit(self, path: str, body: Any) -> str:
        """Submits the job of a call and returns its id."""
        job_id = f"openai-{next(self._numbers)}"
        self.jobs.append(job_id)
        self.runpod_api.submit({"id": job_id, "input": {"openai_route": path.partition("/openai")[2], "openai_input": body}})
        return job_id

    def stream(self, job_id: str) -> Iterator[str]:
        """Yields a job's streamed text outputs as they arrive, until the job has ended."""
        sent, ended = 0, False
        while not ended:
            self.runpod_api.wait_for(partial(self._has_more, job_id, sent), what=job_id)
            ended, streamed = bool(self.runpod_api.results(job_id)), self.runpod_api.streamed(job_id)
            yield from (output for output in streamed[sent:] if isinstance(output, str))
            sent = len(streamed)

    def _has_more(self, job_id: str, sent: int) -> bool:
        return len(self.runpod_api.streamed(job_id)) > sent or bool(self.runpod_api.results(job_id))


class _Request(RequestHandler[OpenAIProxy]):
    def do_GET(self) -> None:
        self._send_result(self.service.submit(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.body())
        job_id = self.service.submit(self.path, body)
        self._send_stream(job_id) if body.get("stream") else self._send_result(job_id)

    def _send_result(self, job_id: str) -> None:
        result = self.service.runpod_api.result(job_id)
        failed, output = "error" in result, result.get("output")
        content = result["error"] if failed else json.dumps(output[0] if isinstance(output, list) else output)
        self._send_head(500 if failed else 200, "application/json")
        self.wfile.write(content.encode())

    def _send_stream(self, job_id: str) -> None:
        self._send_head(200, "text/event-stream")
        with contextlib.suppress(ConnectionError):
            for event in self.service.stream(job_id):
                self.wfile.write(event.encode())

    def _send_head(self, status: int, content_type: str) -> None:
        self.close_connection = True
        self.send_head(status, {"Content-Type": content_type, "Connection": "close"})
