"""In-flight jobs. RunPod delivers at least once: a worker may hold several deliveries of one job, but is told of a cancellation only once.

Duplicate deliveries are not deduplicated: each runs, and is idempotent because it writes the same keys and repeats the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from shared.jobs.execution.threads import wait_done

T = TypeVar("T")


class InFlightJobs:
    """The deliveries in progress, by RunPod's job id. Belongs to one event loop.

    The SDK keeps one task per job id and cancels only that one. If the duplicates went on, a cancelled job would complete after all.
    """

    def __init__(self) -> None:
        self._by_job: dict[str, set[asyncio.Future[Any]]] = {}

    async def run(self, job_id: str, work: Coroutine[Any, Any, T]) -> T:
        """Runs one delivery and returns its result. Cancelling this cancels every delivery of the job; each still returns its own result.

        Args:
            job_id: RunPod's id.
            work: Returns a result also when it is cancelled.
        """
        own = asyncio.ensure_future(work)
        deliveries = self._by_job.setdefault(job_id, set())
        deliveries.add(own)
        try:
            await asyncio.wait([own])
        except asyncio.CancelledError:
            for future in deliveries:
                future.cancel()
            await wait_done(own)
        finally:
            deliveries.discard(own)
            if not deliveries:
                self._by_job.pop(job_id, None)
        return own.result()
