"""Several jobs in hand: what one waits for, no other waits for, and what one does, no other reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from handlers.sdxl.request import SdxlRequest
from shared.jobs.lifecycle import Completed, Outcome, Worker, run_job
from shared.jobs.recipe import JobRun, Output, Summary
from tests.shared.jobs.conftest import Made, WatchedDisk, Workers, job, picture, run

PATIENCE = 10.0


def six_pictures(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield from (picture(seed) for seed in request.seeds)


class Held:
    """Uploads that wait until they are let go, unless they are of one job."""

    def __init__(self, but: str) -> None:
        self._but = but
        self._let_go = threading.Event()
        self.waiting: set[str] = set()

    def __call__(self, key: str) -> None:
        job_id = key.split("/")[1]
        if job_id != self._but:
            self.waiting.add(job_id)
            assert self._let_go.wait(PATIENCE), f"{self._but} waits for the uploads of others"

    def let_go(self) -> None:
        self._let_go.set()


async def side_by_side(worker: Worker[SdxlRequest], *job_ids: str) -> list[asyncio.Task[Outcome]]:
    return [asyncio.ensure_future(run_job(job(name, num_images=6), worker, run(name))) for name in job_ids]


def test_stalled_uploads_delay_no_other_job(worker: Workers, disk: WatchedDisk) -> None:
    disk.before_put = held = Held(but="free")

    async def scenario() -> None:
        stuck = await side_by_side(worker(six_pictures), "a", "b", "c")
        while held.waiting != {"a", "b", "c"}:
            await asyncio.sleep(0.01)
        (free,) = await side_by_side(worker(six_pictures), "free")
        assert isinstance(await asyncio.wait_for(free, PATIENCE / 2), Completed)
        assert not any(other.done() for other in stuck)
        held.let_go()
        assert all(isinstance(end, Completed) for end in await asyncio.gather(*stuck))

    asyncio.run(scenario())


@dataclass
class SaysWhatItDidLast(Made):
    """As a recipe does that asks the GPU how much memory was taken."""

    last: str = ""

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "made", "last": self.last})


def test_summary_is_taken_before_the_next_job_generates(worker: Workers, disk: WatchedDisk) -> None:
    disk.before_put = held = Held(but="second")

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        recipe.last = request.job_id
        yield picture()

    recipe = SaysWhatItDidLast(making)

    async def scenario() -> None:
        (first,) = await side_by_side(replace(worker(making), recipe=recipe), "first")
        while not held.waiting:
            await asyncio.sleep(0.01)
        (second,) = await side_by_side(replace(worker(making), recipe=recipe), "second")
        await second
        held.let_go()
        for ended in await asyncio.gather(first, second):
            assert isinstance(ended, Completed)
            assert (ended.payload.metadata.model_extra or {})["last"] == ended.payload.job_id

    asyncio.run(scenario())
