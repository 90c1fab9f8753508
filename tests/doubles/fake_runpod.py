"""A fake of RunPod's job API on loopback, for the real SDK: job-take, job-done, job-stream, job-stop, ping."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playground.loopback import LoopbackServer, RequestHandler

# Seconds that a take request is held open (long polling). An immediate empty response makes the SDK poll in a busy loop.
HOLD_TAKE = 0.25
# Seconds that a stop poll is held open, as RunPod does: the SDK sleeps for a second after each, during which it would miss a stop signal.
HOLD_STOP = 30.0


@dataclass(frozen=True)
class Post:
    """A recorded request of a worker; `kind` is `job-done` or `job-stream`."""

    kind: str
    job_id: str
    body: Any
    status: int
    at: float = field(default_factory=time.monotonic)

    @property
    def is_progress(self) -> bool:
        return isinstance(self.body, dict) and self.body.get("status") == "IN_PROGRESS"

    @property
    def is_result(self) -> bool:
        return self.kind == "job-done" and not self.is_progress


class FakeRunPodAPI(LoopbackServer):
    """Serves jobs and stop signals, and records progress updates, streams and results.

    Attributes:
        posts: All recorded requests, in order of arrival.
        result_statuses: HTTP statuses of the responses to the next results; 200 once it is empty.
        pings: The query of each ping.
        takes: The time of each take request, and whether jobs were in progress.
        taken: The ids of the jobs that were taken, in order.
        max_in_flight: The largest number of taken jobs without a result that were not stopped.
        on_progress_sent: Called with the job's id while a progress update is in transit.
        progress_delay: Latency of a progress update in seconds.
        stream_delay: Latency of a stream chunk in seconds.
        on_result_dropped: If set, called when a result arrives, which is then answered with 500.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.posts: list[Post] = []
        self.result_statuses: deque[int] = deque()
        self.pings: list[dict[str, list[str]]] = []
        self.takes: list[tuple[float, bool]] = []
        self.taken: list[str] = []
        self.max_in_flight = 0
        self.on_progress_sent: Callable[[str], object] = lambda _job_id: None
        self.progress_delay = 0.0
        self.stream_delay = 0.0
        self.on_result_dropped: Callable[[], object] | None = None
        self._jobs: deque[dict[str, Any]] = deque()
        self._stops: deque[str] = deque()
        self._stopped = 0
        self._draining = False
        self._changed = threading.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """The environment that connects a worker to this server. The SDK appends `&…`, so each URL needs a query."""
        api = f"{self.url}/v2/endpoint"
        return {
            "RUNPOD_POD_ID": "pod1",
            "RUNPOD_AI_API_KEY": "canary-runpod-key",
            "RUNPOD_WEBHOOK_GET_JOB": f"{api}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{api}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{api}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{api}/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def submit(self, job: dict[str, Any]) -> None:
        """Queues a job: `{"id": …, "input": …}`."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def stop(self, job_id: str) -> None:
        """Tells the worker to stop a job."""
        with self._changed:
            self._stops.append(job_id)
            self._changed.notify_all()

    def drain(self) -> None:
        """Completes the stop poll, for which a worker waits before it exits."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60.0, *, what: str = "the worker") -> None:
        """Blocks until a request makes the condition true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=seconds), f"no matching request from {what} within {seconds} s"

    def results(self, job_id: str) -> list[Any]:
        """The accepted results of a job: one for each time it was submitted."""
        return [post.body for post in self.posts if post.is_result and post.job_id == job_id and post.status == 200]

    def result(self, job_id: str, seconds: float = 60.0) -> Any:
        """Blocks until a job has an accepted result and returns it."""
        self.wait_for(lambda: bool(self.results(job_id)), seconds, what=f"job {job_id}")
        return self.results(job_id)[0]

    def progress(self, job_id: str) -> list[Any]:
        """The progress updates of a job, in order of arrival."""
        return [post.body["output"] for post in self.posts if post.is_progress and post.job_id == job_id]

    def streamed(self, job_id: str) -> list[Any]:
        """The chunks of a streamed result, in order of arrival."""
        return [post.body["output"] for post in self.posts if post.kind == "job-stream" and post.job_id == job_id]

    # Called by the request handler

    def take(self, count: int, *, busy: bool) -> list[dict[str, Any]]:
        with self._changed:
            self.takes.append((time.monotonic(), busy))
            self._changed.notify_all()
            self._changed.wait_for(lambda: bool(self._jobs), timeout=HOLD_TAKE)
            jobs = [self._jobs.popleft() for _ in range(min(count, len(self._jobs)))]
            self.taken += [job["id"] for job in jobs]
            finished = sum(post.is_result for post in self.posts) + self._stopped
            self.max_in_flight = max(self.max_in_flight, len(self.taken) - finished)
            return jobs

    def take_stops(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._stops) or self._draining, timeout=HOLD_STOP)
            stops = list(self._stops)
            self._stops.clear()
            self._stopped += len(stops)
            return stops

    def record(self, kind: str, job_id: str, body: Any) -> int:
        progress = isinstance(body, dict) and body.get("status") == "IN_PROGRESS"
        if progress:
            time.sleep(self.progress_delay)
            self.on_progress_sent(job_id)
        elif kind == "job-stream":
            time.sleep(self.stream_delay)
        elif self.on_result_dropped is not None:
            self.on_result_dropped()
            return 500
        with self._changed:
            status = self.result_statuses.popleft() if self.result_statuses and kind == "job-done" and not progress else 200
            self.posts.append(Post(kind, job_id, body, status))
            self._draining |= isinstance(body, dict) and "stopPod" in body
            self._changed.notify_all()
            return status

    def ping(self, query: dict[str, list[str]]) -> None:
        with self._changed:
            self.pings.append(query)
            self._changed.notify_all()


class _Handler(RequestHandler[FakeRunPodAPI]):
    def do_GET(self) -> None:
        runpod_api, url = self.service, urlsplit(self.path)
        verb, query = url.path.split("/")[3], parse_qs(url.query)
        busy = query.get("job_in_progress", ["0"])[0] == "1"
        content: Any
        match verb:
            case "job-take":
                content = next(iter(runpod_api.take(1, busy=busy)), None)
            case "job-take-batch":
                content = runpod_api.take(int(query["batch_size"][0]), busy=busy)
            case "job-stop":
                stops = runpod_api.take_stops()
                content = {"jobsToStop": stops} if stops else None
            case _:
                runpod_api.ping(query)
                content = {"ok": True}
        self._send(200, json.dumps(content).encode()) if content else self._send(204, b"")

    def do_POST(self) -> None:
        verb, job_id = self.path.split("/")[3], urlsplit(self.path).path.split("/")[-1]
        self._send(self.service.record(verb, job_id, json.loads(self.body(), parse_constant=_reject)), b"{}")

    def _send(self, status: int, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # an exiting worker does not wait for its open polls
            self.respond(status, content)


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
