"""A discrete-event simulation of an endpoint: a queue, workers with RunPod's SDK, and RunPod's scaler.

The SDK's loop is that of runpod 1.12 (`rp_scale.py`): a worker with a free slot holds a take request open; one without looks again after a
second; a job that was taken starts at the next look of another loop, every 0.1 seconds. RunPod's own side is not public. Assumed are: the
take request that was opened first gets the job, and a worker is billed from its creation to its end.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

FULL_INTERVAL = 1.0
"""Seconds until a worker without a free slot looks for a job again."""

START_INTERVAL = 0.1
"""Seconds between two looks for taken jobs that have not started."""


@dataclass(frozen=True)
class JobShape:
    """The seconds of a job on its worker.

    Attributes:
        before: Validation and references.
        gpu: Generation. Jobs of one worker take turns.
        after: Encoding of the last output, uploads, the callback.
    """

    before: float
    gpu: float
    after: float


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's settings, as RunPod has them.

    Attributes:
        concurrency: Jobs in flight per worker: `JOB_CONCURRENCY`.
        min_workers: Active workers, which never end.
        max_workers: Workers at most.
        start: Seconds from the creation of a worker to its first take request.
        idle_timeout: Seconds without a job after which a worker ends.
        scaler: `delay` adds a worker when a job has waited for `threshold` seconds; `requests` where there are more than `threshold` jobs
            per worker.
        threshold: The scaler's value.
        price: Of a worker, per second.
    """

    concurrency: int = 1
    min_workers: int = 0
    max_workers: int = 3
    start: float = 30.0
    idle_timeout: float = 5.0
    scaler: Literal["delay", "requests"] = "delay"
    threshold: float = 4.0
    price: float = 0.00053


@dataclass(frozen=True)
class Outcome:
    """What happened.

    Attributes:
        waits: Seconds of each job from its arrival to its first second on a GPU, in the order of the starts.
        latencies: Seconds from arrival to result, in the order of the results.
        billed: Seconds of all workers together.
        busy: Seconds of all GPUs together.
        starts: Workers created.
        end: When the last worker ended, or the last result came if some never end.
        cost: `billed` × price.
    """

    waits: Sequence[float]
    latencies: Sequence[float]
    billed: float
    busy: float
    starts: int
    end: float
    cost: float

    @property
    def busy_share(self) -> float:
        """The share of the billed time in which a GPU worked."""
        return self.busy / self.billed if self.billed else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest of the values that is not exceeded by this share of them.

    Args:
        values: At least one.
        share: Above 0, at most 1.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def simulate(arrivals: Sequence[float], job: JobShape, endpoint: Endpoint, seed: int = 0) -> Outcome:
    """Runs all jobs to their end. The same arguments give the same outcome.

    Args:
        arrivals: When each job arrives, in seconds from the start.
        job: Its shape.
        endpoint: The settings.
        seed: Of the moments at which the SDK's loop looks for jobs.
    """
    return _Simulation(arrivals, job, endpoint, random.Random(seed)).run()


@dataclass
class _Worker:
    created: float
    ready: bool = False
    in_flight: int = 0
    gpu_free_at: float = 0.0
    idle_since: float = 0.0
    ended: bool = False


@dataclass
class _Simulation:
    arrivals: Sequence[float]
    job: JobShape
    endpoint: Endpoint
    random: random.Random
    now: float = 0.0
    end: float = 0.0
    queue: deque[float] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    polling: deque[_Worker] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    billed: float = 0.0
    starts: int = 0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def run(self) -> Outcome:
        for _ in range(self.endpoint.min_workers):
            self._start_worker()
        for arrival in self.arrivals:
            self._at(arrival, lambda arrival=arrival: self._arrive(arrival))  # type: ignore[misc]
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        for worker in self.workers:  # the active ones
            self.billed += self.end - worker.created
        busy = self.job.gpu * len(self.latencies)
        return Outcome(self.waits, self.latencies, self.billed, busy, self.starts, self.end, self.billed * self.endpoint.price)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    # The queue and the scaler

    def _arrive(self, arrival: float) -> None:
        self.queue.append(arrival)
        if self.polling:
            self._look(self.polling.popleft())
        if self.endpoint.scaler == "requests":
            jobs = len(self.queue) + sum(worker.in_flight for worker in self.workers)
            self._scale_to(math.ceil(jobs / self.endpoint.threshold))
        elif self.queue:
            self._scale_to(1)
            self._at(arrival + self.endpoint.threshold, lambda: self._delayed(arrival))

    def _delayed(self, arrival: float) -> None:
        """A job has waited for the threshold: a worker is added unless those that are starting will take all that wait."""
        starting = sum(not worker.ready for worker in self.workers)
        if self.queue and self.queue[0] <= arrival and len(self.queue) > starting * self.endpoint.concurrency:
            self._scale_to(len(self.workers) + 1)

    def _scale_to(self, wanted: int) -> None:
        while len(self.workers) < min(wanted, self.endpoint.max_workers):
            self._start_worker()

    # A worker

    def _start_worker(self) -> None:
        worker = _Worker(self.now)
        self.workers.append(worker)
        self.starts += 1
        self._at(self.now + self.endpoint.start, lambda: self._become_ready(worker))

    def _become_ready(self, worker: _Worker) -> None:
        worker.ready = True
        self._become_idle(worker)
        self._look(worker)

    def _look(self, worker: _Worker) -> None:
        """The SDK's `get_jobs`: takes as many jobs as there are free slots, or waits for one, or for a slot."""
        if worker.ended:
            return
        while self.queue and worker.in_flight < self.endpoint.concurrency:
            self._take(worker, self.queue.popleft())
        if worker.in_flight < self.endpoint.concurrency:
            self.polling.append(worker)
        else:
            self._at(self.now + FULL_INTERVAL, lambda: self._look(worker))

    def _take(self, worker: _Worker, arrival: float) -> None:
        worker.in_flight += 1
        ready = self.now + self.random.uniform(0, START_INTERVAL) + self.job.before
        self._at(ready, lambda: self._compute(worker, arrival))

    def _compute(self, worker: _Worker, arrival: float) -> None:
        start = max(self.now, worker.gpu_free_at)
        worker.gpu_free_at = start + self.job.gpu
        self.waits.append(start - arrival)
        self._at(worker.gpu_free_at + self.job.after, lambda: self._finish(worker, arrival))

    def _finish(self, worker: _Worker, arrival: float) -> None:
        worker.in_flight -= 1
        self.end = self.now
        self.latencies.append(self.now - arrival)
        if worker.in_flight == 0:
            self._become_idle(worker)

    def _become_idle(self, worker: _Worker) -> None:
        since = worker.idle_since = self.now
        self._at(since + self.endpoint.idle_timeout, lambda: self._end_if_idle(worker, since))

    def _end_if_idle(self, worker: _Worker, since: float) -> None:
        if worker.in_flight or worker.idle_since != since or worker.ended or len(self.workers) <= self.endpoint.min_workers:
            return
        worker.ended, self.end = True, self.now
        self.billed += self.now - worker.created
        self.workers.remove(worker)
        if worker in self.polling:
            self.polling.remove(worker)
