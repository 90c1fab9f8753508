"""A fake of RunPod's public API on loopback, as far as RunPod's Python client streams a job: `/run`, `/stream` and `/status`."""

from __future__ import annotations

import itertools
import json
from typing import Any

from playground.loopback import LoopbackServer, RequestHandler
from tests.doubles.fake_runpod import FakeRunPodAPI

_HOLD = 5.0
"""Seconds that a read of a stream waits for something new. The client gives up after ten."""


class RunPodGateway(LoopbackServer):
    """Submits the jobs of clients to the API that runs them.

    Args:
        runpod_api: Runs the jobs.
    """

    def __init__(self, runpod_api: FakeRunPodAPI) -> None:
        super().__init__(_Request)
        self.runpod_api = runpod_api
        self._numbers = itertools.count(1)
        self._read: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The base URL for RunPod's clients."""
        return f"{super().url}/v2"

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Queues a job and returns its state."""
        job_id = f"gateway-{next(self._numbers)}"
        self._read[job_id] = 0
        self.runpod_api.submit({"id": job_id, "input": body["input"]})
        return {"id": job_id, "status": "IN_QUEUE"}

    def state(self, job_id: str) -> dict[str, Any]:
        """Returns the state of a job, with its output or error if it has ended."""
        results = self.runpod_api.results(job_id)
        if not results:
            return {"id": job_id, "status": "IN_PROGRESS"}
        return {"id": job_id, "status": "FAILED" if "error" in results[0] else "COMPLETED", **results[0]}

    def read_stream(self, job_id: str) -> dict[str, Any]:
        """Waits for streamed outputs that have not been read, or for the end, and returns both."""
        api, read = self.runpod_api, self._read[job_id]
        api.wait_for(lambda: len(api.streamed(job_id)) > read or bool(api.results(job_id)), _HOLD, what=job_id)
        state, outputs = self.state(job_id), api.streamed(job_id)[read:]
        self._read[job_id] = read + len(outputs)
        return state | {"stream": [{"output": output} for output in outputs]}


class _Request(RequestHandler[RunPodGateway]):
    def do_POST(self) -> None:
        self.respond_json(200, self.service.submit(json.loads(self.body())))

    def do_GET(self) -> None:
        verb, job_id = self.path.split("/")[3:5]
        self.respond_json(200, self.service.read_stream(job_id) if verb == "stream" else self.service.state(job_id))
