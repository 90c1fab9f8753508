"""Jobs that RunPod has handed out more than once, and stops once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from shared.jobs.execution.threads import wait_done

T = TypeVar("T")


class InFlightJobs:
    """The deliveries of jobs that are in hand, by RunPod's id of the job. Each is worked on for itself; to be used on one event loop.

    The SDK knows one task for each id, and stops that. Were the others to go on, a job that was stopped would complete after all.
    """

    def __init__(self) -> None:
        self._works: dict[str, set[asyncio.Future[Any]]] = {}

    async def run(self, job_id: str, work: Coroutine[Any, Any, T]) -> T:
        """Does the work of one delivery. When this is cancelled, the works of all deliveries of the job are, and each says how it ended."""
        mine = asyncio.ensure_future(work)
        works = self._works.setdefault(job_id, set())
        works.add(mine)
        try:
            await asyncio.wait([mine])
        except asyncio.CancelledError:
            for each in works:
                each.cancel()
            await wait_done(mine)
        finally:
            works.discard(mine)
            if not works:
                self._works.pop(job_id, None)
        return mine.result()
