"""A fake of RunPod's API for callers on loopback, in front of fakes of its job API, from which real workers take the jobs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from playground.loopback import LoopbackServer, RequestHandler
from tests.doubles.fake_runpod import FakeRunPodAPI

KEY = "canary-runpod-api-key"


class RunPodEndpoints(LoopbackServer):
    """Answers `/v2/{endpoint}/run`, `status`, `cancel` and `health`.

    Args:
        endpoints: The job API of each endpoint's worker.

    Attributes:
        runs: The ids of accepted jobs by the id in their input, in order.
        inputs: The inputs of accepted jobs by RunPod's id.
    """

    def __init__(self, endpoints: Mapping[str, FakeRunPodAPI]) -> None:
        super().__init__(_Handler)
        self.endpoints = dict(endpoints)
        self.runs: dict[str, list[str]] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, str] = {}
        self._forgotten: set[str] = set()

    @property
    def api(self) -> str:
        """The base URL, `RUNPOD_API_URL` of callers."""
        return f"{self.url}/v2"

    def lose_worker(self, run: str) -> None:
        """Fails a job as RunPod does when its worker has died."""
        self._ended[run] = "FAILED"

    def forget(self, run: str) -> None:
        """Forgets a job, as RunPod does 30 minutes after its end."""
        self._forgotten.add(run)

    def run(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Queues a job."""
        run = f"{uuid.uuid4()}-e1"
        self.runs.setdefault(body["input"]["id"], []).append(run)
        self.inputs[run] = body["input"]
        self.endpoints[endpoint].submit({"id": run, "input": body["input"]})
        return {"id": run, "status": "IN_QUEUE"}

    def status(self, endpoint: str, run: str) -> dict[str, Any] | None:
        """Describes a job."""
        if run in self._forgotten or run not in self.inputs:
            return None
        api = self.endpoints[endpoint]
        if run in self._ended:
            return {"id": run, "status": self._ended[run]}
        if results := api.results(run):
            status = "FAILED" if "error" in results[0] else "COMPLETED"
            return {"id": run, "status": status, **{name: results[0][name] for name in ("output", "error") if name in results[0]}}
        if run not in api.taken:
            return {"id": run, "status": "IN_QUEUE"}
        progress = api.progress(run)
        return {"id": run, "status": "IN_PROGRESS"} | ({"output": progress[-1]} if progress else {})

    def cancel(self, endpoint: str, run: str) -> dict[str, Any] | None:
        """Stops a job."""
        if run not in self.inputs:
            return None
        self._ended[run] = "CANCELLED"
        self.endpoints[endpoint].stop(run)
        return {"id": run, "status": "CANCELLED"}


class _Handler(RequestHandler[RunPodEndpoints]):
    def do_POST(self) -> None:
        body = self.body()
        self._answer(json.loads(body) if body else {})

    def do_GET(self) -> None:
        self._answer({})

    def _answer(self, body: Mapping[str, Any]) -> None:
        _, _, endpoint, verb, *rest = self.path.split("/")
        answer: dict[str, Any] | None = None
        if self.headers.get("authorization", "").removeprefix("Bearer ") != KEY:
            self.respond_json(401, {})
            return
        if endpoint in self.service.endpoints:
            match verb:
                case "run":
                    answer = self.service.run(endpoint, body)
                case "status":
                    answer = self.service.status(endpoint, rest[0])
                case "cancel":
                    answer = self.service.cancel(endpoint, rest[0])
        self.respond_json(404, {"error": "not found"}) if answer is None else self.respond_json(200, answer)
