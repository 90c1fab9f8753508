"""The lifecycle of a job: overlapping steps, and every outcome."""

from __future__ import annotations

import ast
import asyncio
import json
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from handlers.sdxl.request import SdxlRequest
from shared.errors import GenerationError, UploadError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, run_job
from shared.jobs.recipe import JobRun, Output
from tests.shared.jobs.conftest import MakeWorker, ObservedDisk, ScriptedRecipe, image_output, job, run

T = TypeVar("T")
SOURCES = Path(__file__).parents[3]
TIMEOUT = 60.0


def test_outputs_are_uploaded_while_the_next_one_is_generated(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    uploading = threading.Event()
    disk.before_put = lambda key: uploading.set()

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield image_output()
        assert uploading.wait(TIMEOUT), "the first upload waits for the second output"
        yield image_output()
        yield image_output()

    outcome = asyncio.run(run_job(job(num_images=3), make_worker(generate), run()))
    assert isinstance(outcome, Completed)


def test_outputs_are_uploaded_concurrently_and_listed_in_order(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    barrier = threading.Barrier(3)

    def wait_for_the_others(key: str) -> None:
        if key.endswith(".png"):
            barrier.wait(TIMEOUT)

    disk.before_put = wait_for_the_others

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield from (image_output(), image_output(), image_output())

    outcome = asyncio.run(run_job(job(num_images=3), make_worker(generate), run()))
    assert isinstance(outcome, Completed)
    assert [asset.asset_index for asset in outcome.payload.assets] == [0, 1, 2]


def test_failed_upload_stops_generation(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    def refuse(key: str) -> None:
        if key.endswith(".png"):
            raise UploadError("Storage refused.", retryable=False)

    disk.before_put = refuse
    generated_on, closed_on = [], []

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            for number in range(6000):
                generated_on.append(threading.current_thread())
                yield image_output(number)
                threading.Event().wait(0.01)
        finally:
            closed_on.append(threading.current_thread())

    outcome = asyncio.run(run_job(job(), make_worker(generate), run()))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("UPLOAD_ERROR", False)
    assert len(generated_on) < 6000
    assert closed_on == generated_on[:1], "the generator is closed on the GPU thread"


def test_every_step_is_timed_including_skipped_ones(make_worker: MakeWorker) -> None:
    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        time.sleep(0.01)
        yield image_output()

    outcome = asyncio.run(run_job(job(), make_worker(generate), run()))
    assert list(outcome.payload.metadata.timings) == ["validate", "fetch", "generate", "encode", "upload"]
    assert outcome.payload.metadata.timings["fetch"] == 0.0
    assert outcome.payload.metadata.timings["generate"] >= 0.01


@pytest.mark.parametrize("when", ["before the first output", "between two outputs"])
def test_failing_recipe_is_closed_and_its_error_reported(make_worker: MakeWorker, when: str) -> None:
    closed_on = []

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            if when == "between two outputs":
                yield image_output()
            raise GenerationError("The output is not finite.")
        finally:
            closed_on.append(threading.current_thread())

    outcome = asyncio.run(run_job(job(), make_worker(generate), run()))
    assert isinstance(outcome, Failed)
    assert outcome.payload.error_message == "The output is not finite."
    assert outcome.payload.assets == ()
    assert len(closed_on) == 1


def test_cancelled_job_waits_for_its_work_to_end(make_worker: MakeWorker) -> None:
    started, finished = threading.Event(), threading.Event()

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        try:
            for _ in range(1000):
                started.set()
                threading.Event().wait(0.1)
                run.cancel.check()
        finally:
            finished.set()
        yield image_output()

    async def cancel_once_started() -> Completed | Failed | Stopped:
        task = asyncio.ensure_future(run_job(job(), make_worker(generate), run()))
        await asyncio.to_thread(started.wait, TIMEOUT)
        task.cancel()
        outcome = await task
        assert finished.is_set(), "the job ended before its work"
        return outcome

    outcome = asyncio.run(cancel_once_started())
    assert isinstance(outcome, Stopped)
    assert outcome.payload.metadata.error_code == "CANCELLED"


class ObservedGpu(GpuThread):
    """A GPU thread that tells when work has been submitted.

    Attributes:
        submitted: Is released once for each piece of work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.submitted = threading.Semaphore(0)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future = super().submit(work)
        self.submitted.release()
        return future


def test_job_cancelled_while_queued_for_the_gpu_never_starts(make_worker: MakeWorker) -> None:
    started: list[str] = []
    release = threading.Event()

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        started.append(run.job_id)
        assert release.wait(TIMEOUT)
        yield image_output()

    async def cancel_the_second() -> tuple[object, object]:
        first = asyncio.ensure_future(run_job(job("first"), own, run("first")))
        assert await asyncio.to_thread(gpu.submitted.acquire, timeout=TIMEOUT)
        second = asyncio.ensure_future(run_job(job("second"), own, run("second")))
        assert await asyncio.to_thread(gpu.submitted.acquire, timeout=TIMEOUT)
        second.cancel()
        outcome = await second
        release.set()
        return await first, outcome

    with ObservedGpu() as gpu:
        own = replace(make_worker(generate), gpu=gpu)
        first, second = asyncio.run(cancel_the_second())
    assert isinstance(first, Completed)
    assert isinstance(second, Stopped)
    assert started == ["first"]


def test_cancellation_after_completion_does_not_change_the_outcome(make_worker: MakeWorker, disk: ObservedDisk, tmp_path: Path) -> None:
    """Its callback is being delivered and reports `completed`, so the result must not contradict it."""
    delivering, release = threading.Event(), threading.Event()

    def hold(key: str) -> None:
        if key.endswith("callback.json"):
            delivering.set()
            assert release.wait(TIMEOUT)

    disk.before_put = hold

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield image_output()

    async def cancel_during_delivery() -> object:
        task = asyncio.ensure_future(run_job(job(), make_worker(generate), run()))
        await asyncio.to_thread(delivering.wait, TIMEOUT)
        task.cancel()
        await asyncio.sleep(0)  # the cancellation reaches the task
        release.set()
        return await task

    assert isinstance(asyncio.run(cancel_during_delivery()), Completed)
    assert json.loads((tmp_path / "user-1/job/callback.json").read_bytes())["status"] == "completed"


def test_slow_validation_does_not_block_the_event_loop(make_worker: MakeWorker) -> None:
    checking, release = threading.Event(), threading.Event()

    def check() -> None:
        checking.set()
        assert release.wait(TIMEOUT), "the event loop is blocked"

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield image_output()

    async def release_during_validation() -> object:
        task = asyncio.ensure_future(run_job(job(), own, run()))
        await asyncio.to_thread(checking.wait, TIMEOUT)
        release.set()
        return await task

    own = make_worker(generate)
    assert isinstance(own.recipe, ScriptedRecipe)
    own.recipe.on_check = check
    assert isinstance(asyncio.run(release_during_validation()), Completed)


def wait_until_expired(token: CancelToken) -> None:
    """Blocks until the deadline of a job has passed."""
    while token.remaining:
        time.sleep(token.remaining)


def test_deadline_covers_uploads(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    late = run(deadline=0.5)
    disk.before_put = lambda key: wait_until_expired(late.cancel)

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield image_output()

    outcome = asyncio.run(run_job(job(), make_worker(generate), late))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "JOB_TIMEOUT"


def test_upload_that_fails_after_the_deadline_is_reported_as_a_timeout(make_worker: MakeWorker, disk: ObservedDisk) -> None:
    late = run(deadline=0.5)

    def fail_late(key: str) -> None:
        wait_until_expired(late.cancel)
        raise UploadError("Storage did not answer in time.")

    disk.before_put = fail_late

    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield image_output()

    outcome = asyncio.run(run_job(job(), make_worker(generate), late))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "JOB_TIMEOUT"


def test_failed_jobs_report_warnings(make_worker: MakeWorker) -> None:
    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        yield from ()
        raise GenerationError("The output is not finite.")

    misspelt = asyncio.run(
        run_job(Job("job", {"id": "job", "user_id": "u", "type": "sdxl_image_fast", "promt": "x"}), make_worker(generate), run())
    )
    assert any("did you mean `prompt`" in warning for warning in misspelt.payload.metadata.warnings)
    later = asyncio.run(run_job(job(widht=3), make_worker(generate), run()))
    assert isinstance(later, Failed)
    assert any("did you mean `config.width`" in warning for warning in later.payload.metadata.warnings)


def test_passed_deadline_is_reported_as_a_retryable_timeout(make_worker: MakeWorker) -> None:
    def generate(request: SdxlRequest, run: JobRun) -> Generator[Output]:
        while not threading.Event().wait(0.01):
            run.cancel.check()
        yield image_output()

    outcome = asyncio.run(run_job(job(), make_worker(generate), run(deadline=0.1)))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("JOB_TIMEOUT", True)
    assert not outcome.error.replaces_worker, "the work has ended in time"


def test_each_outcome_is_constructed_once_and_there_is_one_blind_except() -> None:
    constructed: dict[str, int] = {"Completed": 0, "Failed": 0, "Stopped": 0}
    blind = []
    for path in [*SOURCES.glob("shared/**/*.py"), *SOURCES.glob("handlers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in constructed:
                constructed[node.func.id] += 1
            if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}):
                blind.append(path.relative_to(SOURCES).as_posix())
    assert constructed == {"Completed": 1, "Failed": 1, "Stopped": 1}
    assert blind == ["shared/jobs/lifecycle.py"]
