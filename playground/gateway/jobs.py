"""A job as RunPod shows it: its status, times and output."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from playground.gateway import limits


class Status(StrEnum):
    """The states of a job."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in (Status.IN_QUEUE, Status.IN_PROGRESS)


@dataclass(eq=False)
class Job:
    """A submitted job.

    Attributes:
        request: The submitted body, which workers receive unchanged: `input` and, optionally, `webhook`, `policy`, `s3Config`.
        sync: Submitted by `/runsync`. Its result is kept for a shorter time.
        submitted: When it was submitted, in seconds of the gateway's clock, as are `taken` and `ended`.
        worker: The worker that took it last.
        output: Its output; while it is in progress, its last progress update.
        chunks: The streamed pieces of its output.
        streamed: How many of them `/stream` has returned.
        retries: How often it was queued again.
    """

    request: Mapping[str, Any]
    submitted: float
    sync: bool = False
    id: str = ""
    status: Status = Status.IN_QUEUE
    taken: float | None = None
    ended: float | None = None
    worker: str | None = None
    output: Any = None
    error: str | None = None
    chunks: list[Any] = field(default_factory=list)
    streamed: int = 0
    retries: int = 0

    def __post_init__(self) -> None:
        self.id = self.id or ("sync-" if self.sync else "") + str(uuid.uuid4())

    def start(self, worker: str, now: float) -> dict[str, Any]:
        """Marks the job as taken by a worker. Returns what the worker receives."""
        self.status, self.worker, self.taken = Status.IN_PROGRESS, worker, now
        return {**self.request, "id": self.id}

    def end(self, status: Status, now: float, *, output: Any = None, error: str | None = None) -> None:
        """Moves the job to a final state."""
        self.status, self.ended, self.output, self.error = status, now, output, error

    def requeue(self) -> None:
        """Discards what an attempt has produced, so that the job can be taken again."""
        self.status, self.worker, self.taken, self.ended = Status.IN_QUEUE, None, None, None
        self.output, self.error, self.streamed = None, None, 0
        self.chunks.clear()
        self.retries += 1

    def next_chunks(self) -> list[dict[str, Any]]:
        """Returns the pieces that were not returned before, in the shape of `/stream`."""
        chunks = [{"output": chunk} for chunk in self.chunks[self.streamed :]]
        self.streamed = len(self.chunks)
        return chunks

    @property
    def deadline(self) -> float | None:
        """When it times out; None unless it is in progress."""
        if self.status is not Status.IN_PROGRESS or self.taken is None:
            return None
        return self.taken + self._policy("executionTimeout", limits.EXECUTION_TIMEOUT)

    @property
    def expiry(self) -> float:
        """When the gateway forgets it."""
        ttl = self.submitted + self._policy("ttl", limits.TTL)
        return ttl if self.ended is None else min(ttl, self.ended + (limits.RUNSYNC_RETENTION if self.sync else limits.RUN_RETENTION))

    def describe(self) -> dict[str, Any]:
        """Returns the status object of RunPod's API. Times are in milliseconds."""
        optional = {
            "delayTime": _milliseconds(self.submitted, self.taken),
            "executionTime": _milliseconds(self.taken, self.ended),
            "output": self.output,
            "error": self.error,
            "workerId": self.worker,
            "retries": self.retries or None,
        }
        return {"id": self.id, "status": self.status} | {name: value for name, value in optional.items() if value is not None}

    def _policy(self, name: str, default: float) -> float:
        milliseconds = (self.request.get("policy") or {}).get(name)
        return default if milliseconds is None else milliseconds / 1000


def _milliseconds(start: float | None, end: float | None) -> int | None:
    return None if start is None or end is None else round((end - start) * 1000)
