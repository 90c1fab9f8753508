"""The local gateway for a worker that a test starts itself, with a layer that records the worker's requests and injects faults."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.gateway import worker_api
from playground.gateway.background import BackgroundGateway
from playground.gateway.jobs import Job
from playground.gateway.server import GatewayOptions

_ENDPOINT, _WORKER, _WORKER_KEY = "endpoint", "pod1", "canary-runpod-key"
_HOLD_WHILE_DRAINING = 0.25  # seconds; a poll that is answered at once would be repeated without a pause


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


class _Job(Job):
    """A job without a deadline of the gateway: tests set shorter ones than RunPod accepts, and look at the worker's."""

    @property
    def deadline(self) -> None:
        return None


class FakeRunPodAPI:
    """Serves jobs and stop signals through the gateway, and records what the worker sends.

    Attributes:
        posts: All recorded requests, in order of arrival.
        result_statuses: HTTP statuses of the responses to the next results; 200 once it is empty.
        pings: The query of each ping.
        takes: The time of each take request, and whether jobs were in progress.
        taken: The ids of the jobs that were taken, in order.
        max_in_flight: The largest number of taken jobs without a result that were not stopped.
        on_progress_sent: Called with the job's id while a progress update is in transit.
        on_chunk_sent: Called with the job's id while a chunk of a stream is in transit.
        progress_delay: Latency of a progress update in seconds.
        stream_delay: Latency of a stream chunk in seconds.
        on_result_dropped: If set, called when a result arrives, which is then answered with 500.
        draining: The worker exits, so that polls are not held.
        exits: Interrupts the open polls.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="gateway-")
        folder = Path(self._folder.name)
        options = GatewayOptions(folder, folder, {_ENDPOINT: "none"}, workers=0, port=0, worker_key=_WORKER_KEY)
        self._gateway = BackgroundGateway(options)
        self._gateway.app.add_middleware(_FaultLayer, api=self)
        self.posts: list[Post] = []
        self.result_statuses: deque[int] = deque()
        self.pings: list[dict[str, list[str]]] = []
        self.takes: list[tuple[float, bool]] = []
        self.taken: list[str] = []
        self.max_in_flight = 0
        self.on_progress_sent: Callable[[str], object] = lambda _job_id: None
        self.on_chunk_sent: Callable[[str], object] = lambda _job_id: None
        self.progress_delay = 0.0
        self.stream_delay = 0.0
        self.on_result_dropped: Callable[[], object] | None = None
        self.draining, self.exits = False, asyncio.Event()
        self._stopped = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._gateway.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gateway.__exit__(kind, error, trace)
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._gateway.root

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"{self._gateway.url}/{_ENDPOINT}/openai/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that connects a worker to this server."""
        return {**worker_api.environment(self.url, _ENDPOINT, _WORKER, _WORKER_KEY), "RUNPOD_PING_INTERVAL": "1000"}

    def submit(self, job: dict[str, Any]) -> None:
        """Queues a job: `{"id": …, "input": …}`. One that is submitted again is delivered again, although it may still run."""
        self._gateway.act(_ENDPOINT, lambda endpoint: endpoint.enqueue(_Job(job, time.monotonic(), id=job["id"])))

    def stop(self, job_id: str) -> None:
        """Cancels a job."""
        self._gateway.act(_ENDPOINT, lambda endpoint: endpoint.cancel(endpoint.job(job_id)))

    def drain(self) -> None:
        """Answers the open polls, for which a worker waits before it exits."""
        self._gateway.act(_ENDPOINT, lambda _endpoint: self.interrupt_polls())

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

    # Called by the fault layer, in the gateway's thread

    def interrupt_polls(self) -> None:
        """Answers the open polls, and holds no further one for long."""
        self.draining = True
        self.exits.set()  # wakes all that wait now
        self.exits.clear()

    def record_request(self, query: Mapping[str, list[str]], *, is_ping: bool) -> None:
        """Records a take or a ping."""
        with self._changed:
            if is_ping:
                self.pings.append(dict(query))
            else:
                self.takes.append((time.monotonic(), query.get("job_in_progress") == ["1"]))
            self._changed.notify_all()

    def record_response(self, content: Any) -> None:
        """Records the jobs, or the stop signals, that the worker receives."""
        with self._changed:
            if isinstance(content, dict) and "jobsToStop" in content:
                self._stopped += len(content["jobsToStop"])
            else:
                self.taken += [job["id"] for job in (content if isinstance(content, list) else [content])]
            finished = sum(post.is_result for post in self.posts) + self._stopped
            self.max_in_flight = max(self.max_in_flight, len(self.taken) - finished)
            self._changed.notify_all()

    def record_post(self, post: Post) -> None:
        """Records a progress update, a chunk or a result."""
        with self._changed:
            self.posts.append(post)
            self._changed.notify_all()
        if isinstance(post.body, dict) and "stopPod" in post.body:
            self.interrupt_polls()


class _FaultLayer:
    """ASGI middleware around the gateway's API for workers."""

    def __init__(self, app: ASGIApp, api: FakeRunPodAPI) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        verb = scope["path"].split("/")[3] if scope["type"] == "http" and scope["path"].startswith(worker_api.PREFIX) else ""
        if verb in ("job-done", "job-stream"):
            await self._post(verb, scope, receive, send)
        elif verb:
            if verb != "job-stop":
                self._api.record_request(parse_qs(scope["query_string"].decode()), is_ping=verb == "ping")
            await (self._app if verb == "ping" else self._poll)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Holds a poll as the gateway does, until the worker exits."""

        async def record(message: Message) -> None:
            if content := message.get("body"):
                self._api.record_response(json.loads(content))
            await send(message)

        response, exits = asyncio.ensure_future(self._app(scope, receive, record)), asyncio.ensure_future(self._api.exits.wait())
        seconds = _HOLD_WHILE_DRAINING if self._api.draining else None
        await asyncio.wait({response, exits}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        exits.cancel()
        if response.done():
            response.result()
        else:
            response.cancel()
            await Response(status_code=204)(scope, receive, send)

    async def _post(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        api, content = self._api, await Request(scope, receive).body()
        post = Post(kind, scope["path"].rpartition("/")[2], json.loads(content), 200)
        if post.is_progress:
            await asyncio.sleep(api.progress_delay)
            await asyncio.to_thread(api.on_progress_sent, post.job_id)
        elif kind == "job-stream":
            await asyncio.sleep(api.stream_delay)
            await asyncio.to_thread(api.on_chunk_sent, post.job_id)
        elif api.on_result_dropped is not None:
            await asyncio.to_thread(api.on_result_dropped)
            await Response(status_code=500)(scope, receive, send)
            return

        async def replay() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                api.record_post(replace(post, status=message["status"], at=time.monotonic()))
            await send(message)

        faulty = post.is_result and api.result_statuses
        app = Response(status_code=api.result_statuses.popleft()) if faulty else self._app
        await app(scope, replay, record)
