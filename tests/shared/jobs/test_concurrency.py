"""Concurrent jobs neither delay each other nor mix up their reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from handlers.sdxl.request import SdxlRequest
from shared.jobs.lifecycle import Completed, Outcome, Worker, run_job
from shared.jobs.recipe import JobRun, Output, Summary
from tests.shared.jobs.conftest import MakeWorker, ObservedDisk, ScriptedRecipe, image_output, job, run

TIMEOUT = 60.0


def six_images(request: SdxlRequest, run: JobRun) -> Generator[Output]:
    yield from (image_output(seed) for seed in request.seeds)


class HeldUploads:
    """A `before_put` hook that blocks uploads until `release`, except those of one job."""

    def __init__(self, exempt: str) -> None:
        self._exempt = exempt
        self._released = threading.Event()
        self.waiting: set[str] = set()

    def __call__(self, key: str) -> None:
        job_id = key.split("/")[1]
        if job_id != self._exempt:
            self.waiting.add(job_id)
            assert self._released.wait(TIMEOUT), f"{self._exempt} waits for the uploads of other jobs"

    def release(self) -> None:
        self._released.set()


async def start_jobs(worker: Worker[SdxlRequest], *job_ids: str) -> list[asyncio.Task[Outcome]]:
    return [asyncio.ensure_future(run_job(job(name, num_images=6), worker, run(name))) for name in job_ids]


def test_stalled_uploads_delay_no_other_job(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    disk.before_put = held = HeldUploads(exempt="free")

    async def scenario() -> None:
        stalled = await start_jobs(make_worker(six_images), "a", "b", "c")
        while held.waiting != {"a", "b", "c"}:
            await asyncio.sleep(0.01)
        (free,) = await start_jobs(make_worker(six_images), "free")
        assert isinstance(await asyncio.wait_for(free, TIMEOUT), Completed)
        assert not any(other.done() for other in stalled)
        held.release()
        assert all(isinstance(outcome, Completed) for outcome in await asyncio.gather(*stalled))

    asyncio.run(scenario())


@dataclass
class StatefulRecipe(ScriptedRecipe):
    """Summarizes shared state, like a recipe that reports the peak memory of the GPU."""

    last: str = ""

    def summarize(self, request: SdxlRequest, outputs: Sequence[Output]) -> Summary:
        return Summary({"model_used": "scripted", "last": self.last})


def test_summary_is_taken_before_the_next_job_generates(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    disk.before_put = held = HeldUploads(exempt="second")

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        recipe.last = request.job_id
        yield image_output()

    recipe = StatefulRecipe(generate)

    async def scenario() -> None:
        (first,) = await start_jobs(replace(make_worker(generate), recipe=recipe), "first")
        while not held.waiting:
            await asyncio.sleep(0.01)
        (second,) = await start_jobs(replace(make_worker(generate), recipe=recipe), "second")
        await second
        held.release()
        for outcome in await asyncio.gather(first, second):
            assert isinstance(outcome, Completed)
            assert (outcome.payload.metadata.model_extra or {})["last"] == outcome.payload.job_id

    asyncio.run(scenario())
