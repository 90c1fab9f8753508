"""The job's whole life, with the steps that overlap and the ways that it ends."""

from __future__ import annotations

import ast
import asyncio
import json
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from handlers.sdxl.request import SdxlRequest
from shared.errors import GenerationError, UploadError
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, run_job
from shared.jobs.recipe import JobRun, Output
from tests.shared.jobs.conftest import Made, WatchedDisk, Workers, job, picture, run

SOURCES = Path(__file__).parents[3]
PATIENCE = 10.0


def test_outputs_are_uploaded_while_the_next_one_is_generated(worker: Workers, disk: WatchedDisk) -> None:
    uploading = threading.Event()
    disk.before_put = lambda key: uploading.set()

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield picture()
        assert uploading.wait(PATIENCE), "the first picture waits for the second"
        yield picture()
        yield picture()

    end = asyncio.run(run_job(job(num_images=3), worker(making), run()))
    assert isinstance(end, Completed)


def test_outputs_are_uploaded_concurrently_and_listed_in_order(worker: Workers, disk: WatchedDisk) -> None:
    together = threading.Barrier(3)

    def meet(key: str) -> None:
        if key.endswith(".png"):
            together.wait(PATIENCE)

    disk.before_put = meet

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield from (picture(), picture(), picture())

    end = asyncio.run(run_job(job(num_images=3), worker(making), run()))
    assert isinstance(end, Completed)
    assert [asset.asset_index for asset in end.payload.assets] == [0, 1, 2]


def test_failed_upload_stops_generation(worker: Workers, disk: WatchedDisk) -> None:
    def refuse(key: str) -> None:
        if key.endswith(".png"):
            raise UploadError("Storage refused.", retryable=False)

    disk.before_put = refuse
    made, closed = [], []

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            for number in range(1000):
                made.append(threading.current_thread())
                yield picture(number)
                threading.Event().wait(0.01)
        finally:
            closed.append(threading.current_thread())

    end = asyncio.run(run_job(job(), worker(making), run()))
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.retryable) == ("UPLOAD_ERROR", False)
    assert len(made) < 1000
    assert closed == made[:1], "the recipe is closed on the thread that owns the GPU"


def test_every_step_is_timed_including_skipped_ones(worker: Workers) -> None:
    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        time.sleep(0.01)
        yield picture()

    end = asyncio.run(run_job(job(), worker(making), run()))
    assert list(end.payload.metadata.timings) == ["validate", "fetch", "generate", "encode", "upload"]
    assert end.payload.metadata.timings["fetch"] == 0.0
    assert end.payload.metadata.timings["generate"] >= 0.01


@pytest.mark.parametrize("when", ["before the first picture", "between two pictures"])
def test_failing_recipe_is_closed_and_its_error_reported(worker: Workers, when: str) -> None:
    closed = []

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            if when == "between two pictures":
                yield picture()
            raise GenerationError("The output is not finite.")
        finally:
            closed.append(threading.current_thread())

    end = asyncio.run(run_job(job(), worker(making), run()))
    assert isinstance(end, Failed)
    assert end.payload.error_message == "The output is not finite."
    assert end.payload.assets == ()
    assert len(closed) == 1


def test_cancelled_job_waits_for_its_work_to_end(worker: Workers) -> None:
    began, over = threading.Event(), threading.Event()

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            for _ in range(1000):
                began.set()
                threading.Event().wait(0.1)
                run.cancel.check()
        finally:
            over.set()
        yield picture()

    async def stop_after_a_while() -> Completed | Failed | Stopped:
        task = asyncio.ensure_future(run_job(job(), worker(making), run()))
        await asyncio.to_thread(began.wait, PATIENCE)
        task.cancel()
        end = await task
        assert over.is_set(), "the job ended before its work"
        return end

    end = asyncio.run(stop_after_a_while())
    assert isinstance(end, Stopped)
    assert end.payload.metadata.error_code == "CANCELLED"


def test_job_cancelled_while_queued_for_the_gpu_never_starts(worker: Workers) -> None:
    started: list[str] = []
    release, busy = threading.Event(), threading.Event()

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        started.append(run.job_id)
        busy.set()
        assert release.wait(PATIENCE)
        yield picture()

    async def stop_the_second() -> tuple[object, object]:
        first = asyncio.ensure_future(run_job(job("first"), own, run("first")))
        await asyncio.to_thread(busy.wait, PATIENCE)
        second = asyncio.ensure_future(run_job(job("second"), own, run("second")))
        await asyncio.sleep(0.05)
        second.cancel()
        ended = await second
        release.set()
        return await first, ended

    own = worker(making)
    first, second = asyncio.run(stop_the_second())
    assert isinstance(first, Completed)
    assert isinstance(second, Stopped)
    assert started == ["first"]


def test_cancellation_after_completion_does_not_change_the_outcome(worker: Workers, disk: WatchedDisk, tmp_path: Path) -> None:
    """Its callback is on its way and says completed; nothing may say something else."""
    delivering, release = threading.Event(), threading.Event()

    def hold(key: str) -> None:
        if key.endswith("callback.json"):
            delivering.set()
            assert release.wait(PATIENCE)

    disk.before_put = hold

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield picture()

    async def stop_while_delivering() -> object:
        task = asyncio.ensure_future(run_job(job(), worker(making), run()))
        await asyncio.to_thread(delivering.wait, PATIENCE)
        task.cancel()
        await asyncio.sleep(0.05)
        release.set()
        return await task

    assert isinstance(asyncio.run(stop_while_delivering()), Completed)
    assert json.loads((tmp_path / "user-1/job/callback.json").read_bytes())["status"] == "completed"


def test_slow_validation_does_not_block_the_event_loop(worker: Workers) -> None:
    async def judge_and_tick() -> tuple[object, int]:
        task = asyncio.ensure_future(run_job(job(), own, run()))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await task, ticks

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield picture()

    own = worker(making)
    assert isinstance(own.recipe, Made)
    own.recipe.judging = 0.5
    end, ticks = asyncio.run(judge_and_tick())
    assert isinstance(end, Completed)
    assert ticks > 10


def test_deadline_covers_uploads(worker: Workers, disk: WatchedDisk) -> None:
    disk.before_put = lambda key: time.sleep(0.3)

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield picture()

    end = asyncio.run(run_job(job(), worker(making), run(deadline=0.2)))
    assert isinstance(end, Failed)
    assert end.error.code == "JOB_TIMEOUT"


def test_upload_that_fails_after_the_deadline_is_reported_as_a_timeout(worker: Workers, disk: WatchedDisk) -> None:
    def too_late(key: str) -> None:
        time.sleep(0.3)
        raise UploadError("Storage did not answer in time.")

    disk.before_put = too_late

    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield picture()

    end = asyncio.run(run_job(job(), worker(making), run(deadline=0.2)))
    assert isinstance(end, Failed)
    assert end.error.code == "JOB_TIMEOUT"


def test_failed_jobs_report_warnings(worker: Workers) -> None:
    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield from ()
        raise GenerationError("The output is not finite.")

    misspelt = asyncio.run(
        run_job(Job("job", {"id": "job", "user_id": "u", "type": "sdxl_image_fast", "promt": "x"}), worker(making), run())
    )
    assert any("did you mean `prompt`" in warning for warning in misspelt.payload.metadata.warnings)
    later = asyncio.run(run_job(job(widht=3), worker(making), run()))
    assert isinstance(later, Failed)
    assert any("did you mean `config.width`" in warning for warning in later.payload.metadata.warnings)


def test_passed_deadline_is_reported_as_a_retryable_timeout(worker: Workers) -> None:
    def making(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        while not threading.Event().wait(0.01):
            run.cancel.check()
        yield picture()

    end = asyncio.run(run_job(job(), worker(making), run(deadline=0.1)))
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.retryable) == ("JOB_TIMEOUT", True)
    assert not end.error.replaces_worker, "the work has ended by itself"


def test_each_outcome_is_constructed_once_and_there_is_one_blind_except() -> None:
    made: dict[str, int] = {"Completed": 0, "Failed": 0, "Stopped": 0}
    blind = []
    for path in [*SOURCES.glob("shared/**/*.py"), *SOURCES.glob("handlers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in made:
                made[node.func.id] += 1
            if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}):
                blind.append(path.relative_to(SOURCES).as_posix())
    assert made == {"Completed": 1, "Failed": 1, "Stopped": 1}
    assert blind == ["shared/jobs/lifecycle.py"]
