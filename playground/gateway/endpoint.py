"""An endpoint: a queue of jobs, the workers that take them, and the requests that wait for a change."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from playground.gateway.jobs import Job, Status
from playground.gateway.limits import MAX_ATTEMPTS


class JobNotFound(Exception):
    """There is no such job, or its result has expired."""


class Endpoint:
    """A queue of jobs in the order of their submission. Every method runs on the event loop.

    Args:
        name: Its id in URLs.
        clock: Returns the current time in seconds; it never goes back.

    Attributes:
        on_end: Called with each job that reaches a final state.
        workers: The state of each worker that was started: `initializing`, `ready` or `unhealthy`.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.on_end: list[Callable[[Job], object]] = []
        self.workers: dict[str, str] = {}
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._stops: defaultdict[str, list[str]] = defaultdict(list)
        self._changed = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Ends all waiting, now and later."""
        self._closed = True
        self._notify()

    # For callers

    def submit(self, request: Mapping[str, Any], *, sync: bool = False) -> Job:
        """Queues a request as a new job."""
        job = Job(request, self._clock(), sync)
        self.enqueue(job)
        return job

    def enqueue(self, job: Job) -> None:
        """Queues a job. It takes the place of one with the same id, if there is one."""
        self._jobs[job.id] = job
        self._queue.append(job)
        self._notify()

    def job(self, job_id: str) -> Job:
        """Returns a job.

        Raises:
            JobNotFound: It is unknown, or has expired.
        """
        if (job := self._jobs.get(job_id)) is not None:
            self._expire_job(job, self._clock())
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound(job_id) from None

    def cancel(self, job: Job) -> None:
        """Cancels a job that has not ended. Its worker is told to stop."""
        if not job.status.final:
            self._interrupt(job, Status.CANCELLED)

    def retry(self, job: Job) -> bool:
        """Queues a job that has failed or timed out again. Returns False for a job in another state."""
        if job.status not in (Status.FAILED, Status.TIMED_OUT):
            return False
        job.requeue()
        self._queue.append(job)
        self._notify()
        return True

    def purge(self) -> int:
        """Cancels all jobs that wait in the queue. Returns their number."""
        waiting = list(self._queue)
        for job in waiting:
            self.cancel(job)
        return len(waiting)

    def health(self) -> dict[str, dict[str, int]]:
        """Returns the number of jobs and of workers in each state, as `/health` shows them."""
        self.expire()
        jobs = list(self._jobs.values())
        busy = {job.worker for job in jobs if job.status is Status.IN_PROGRESS}
        ready = {worker for worker, state in self.workers.items() if state == "ready"}
        states = list(self.workers.values())
        return {
            "jobs": {
                "completed": _count(jobs, Status.COMPLETED),
                "failed": _count(jobs, Status.FAILED, Status.TIMED_OUT),
                "inProgress": _count(jobs, Status.IN_PROGRESS),
                "inQueue": _count(jobs, Status.IN_QUEUE),
                "retried": sum(job.retries for job in jobs),
            },
            "workers": {
                "idle": len(ready - busy),
                "running": len(ready & busy),
                "initializing": states.count("initializing"),
                "ready": len(ready),
                "throttled": 0,
                "unhealthy": states.count("unhealthy"),
            },
        }

    @property
    def queue(self) -> list[Job]:
        """The jobs that wait for a worker, the next one first."""
        return list(self._queue)

    async def wait(self, condition: Callable[[], object], seconds: float) -> None:
        """Waits until a condition holds, or for so many seconds, or until the endpoint is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self._closed or condition()):
                    await self._changed.wait()

    # For workers

    def take(self, worker: str, count: int) -> list[dict[str, Any]]:
        """Hands up to `count` jobs to a worker."""
        jobs = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        self._notify()
        return [job.start(worker, self._clock()) for job in jobs]

    def take_stops(self, worker: str) -> list[str]:
        """Returns the ids of the jobs that a worker has to stop, each once."""
        return self._stops.pop(worker, [])

    def has_stops(self, worker: str) -> bool:
        """Whether a worker has to stop a job."""
        return worker in self._stops

    def update(self, job_id: str, worker: str, output: Any) -> None:
        """Records a progress update. It is dropped unless the job is in progress on this worker."""
        if (job := self._running(job_id, worker)) is not None:
            job.output = output
            self._notify()

    def add_chunk(self, job_id: str, worker: str, output: Any) -> None:
        """Records a piece of streamed output. It is dropped unless the job is in progress on this worker."""
        if (job := self._running(job_id, worker)) is not None:
            job.chunks.append(output)
            self._notify()

    def finish(self, job_id: str, worker: str, result: Mapping[str, Any]) -> None:
        """Records a result. It is dropped unless the job is in progress on this worker.

        An `error` that is not a string counts as completion without output, as on RunPod (runpod-python#299).
        """
        if (job := self._running(job_id, worker)) is None:
            return
        error, output = result.get("error"), result.get("output")
        if isinstance(error, str):
            self._end(job, Status.FAILED, output=output, error=error)
        else:
            self._end(job, Status.COMPLETED, output=output if error is None else None)

    def worker_seen(self, worker: str) -> None:
        """Records a sign of life of a worker: its models are loaded."""
        if self.workers.get(worker) == "initializing":
            self.workers[worker] = "ready"
            self._notify()

    def worker_started(self, worker: str) -> None:
        """Records that the process of a worker has been started."""
        self.workers[worker] = "initializing"
        self._notify()

    def worker_ended(self, worker: str) -> None:
        """Records that a worker has ended. Its jobs return to the front of the queue, or fail after several attempts."""
        self.workers.pop(worker, None)
        self._stops.pop(worker, None)
        for job in reversed([job for job in self._jobs.values() if job.status is Status.IN_PROGRESS and job.worker == worker]):
            if job.retries + 1 >= MAX_ATTEMPTS:
                self._end(job, Status.FAILED, error=f"{MAX_ATTEMPTS} workers ended before they had completed this job.")
            else:
                job.requeue()
                self._queue.appendleft(job)
        self._notify()

    def expire(self) -> None:
        """Times out the jobs that have run for too long, and removes those that are no longer kept."""
        now = self._clock()
        for job in list(self._jobs.values()):
            self._expire_job(job, now)

    def _expire_job(self, job: Job, now: float) -> None:
        if job.expiry <= now:
            if not job.status.final:
                self._interrupt(job, Status.CANCELLED)
            del self._jobs[job.id]
        elif job.deadline is not None and job.deadline <= now:
            self._interrupt(job, Status.TIMED_OUT)

    def _interrupt(self, job: Job, status: Status) -> None:
        if job.status is Status.IN_QUEUE:
            self._queue.remove(job)
        elif job.worker is not None:
            self._stops[job.worker].append(job.id)
        self._end(job, status)

    def _end(self, job: Job, status: Status, *, output: Any = None, error: str | None = None) -> None:
        job.end(status, self._clock(), output=output, error=error)
        for listener in self.on_end:
            listener(job)
        self._notify()

    def _running(self, job_id: str, worker: str) -> Job | None:
        job = self._jobs.get(job_id)
        return job if job is not None and job.status is Status.IN_PROGRESS and job.worker == worker else None

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _count(jobs: list[Job], *statuses: Status) -> int:
    return sum(job.status in statuses for job in jobs)
