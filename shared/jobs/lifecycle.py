"""A job's whole life on one screen: read `run_job` first.

A job ends exactly once, as `Completed`, `Failed` or `Stopped`; each is made on one line. What it ends with is delivered and returned: the
same object, twice. There is one blind `except` in the code base, and it is here: no detail of an unexpected error leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from PIL import Image

from shared.contract.callback import Asset, CompletedPayload, FailedPayload
from shared.contract.request import Identity, Operator, Request, identify
from shared.errors import Cancelled, JobError, classify, clear_exception_frames
from shared.fetch import Fetcher
from shared.jobs import payload
from shared.jobs.assets import store_output
from shared.jobs.delivery.callbacks import CallbackDispatcher, check_result_size
from shared.jobs.delivery.uploads import UploadSession
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.execution.threads import await_or_cancel, drain, job_executor, submit
from shared.jobs.execution.watchdog import run_with_deadline
from shared.jobs.recipe import JobRun, Output, Recipe, Summary
from shared.storage.protocol import Storage
from shared.telemetry import StepTimer, job_context, log_error, logger

STEPS = ("validate", "fetch", "generate", "encode", "upload")
RequestT = TypeVar("RequestT", bound=Request)


@dataclass(frozen=True)
class Job:
    """What arrived: the id that RunPod gave it, and its input as it came."""

    id: str
    input: object = field(repr=False)


@dataclass(frozen=True)
class Worker(Generic[RequestT]):
    """What every job of this process shares.

    Attributes:
        id: Named in payloads: `sdxl_worker_<pod>`.
        request: The model that inputs are parsed with.
        recipe: The handler, its models loaded.
        operator: What the operator decides about requests.
        gpu: One thread, which owns the GPU; or, for a recipe that has such a thread of its own, one for each job that it does at once.
        grace: Seconds that a step may take beyond a job's deadline. Then the job is answered without its work, and the worker replaced.
        concurrency: How many jobs are in hand at once.
    """

    id: str
    request: type[RequestT]
    recipe: Recipe[RequestT]
    operator: Operator
    storage: Storage
    fetcher: Fetcher
    callbacks: CallbackDispatcher
    gpu: GpuThread
    grace: float = 20.0
    concurrency: int = 1


@dataclass(frozen=True)
class Completed:
    """Everything that was asked for exists, and what is reported as stored is stored."""

    payload: CompletedPayload
    callback_pending: bool = False


@dataclass(frozen=True)
class Failed:
    """There is no result, and the payload says why."""

    payload: FailedPayload
    error: JobError
    callback_pending: bool = False


@dataclass(frozen=True)
class Stopped:
    """RunPod stopped the job; the receiver of callbacks is told so, RunPod knows."""

    payload: FailedPayload
    callback_pending: bool = False


Outcome = Completed | Failed | Stopped


async def run_job(job: Job, worker: Worker[RequestT], run: JobRun) -> Outcome:
    """Validate → fetch → generate → encode → upload → call back → return.

    Args:
        job: What arrived.
        worker: What it is done with.
        run: The job's cancel token and progress. Cancelling the task that runs this stops the work within one step; this returns
            `Stopped` when the work has ended.
    """
    timer = StepTimer(STEPS)
    identity = identify(job.input, job_id=job.id, operator=worker.operator)
    with job_context(identity.job_id):
        ended: Outcome
        try:
            work = _complete(job, identity, worker, run, timer)
            ended = Completed(await run_with_deadline(work, run.cancel, grace=worker.grace))
        except asyncio.CancelledError:
            ended = Stopped(payload.failed(identity, worker.id, Cancelled("RunPod stopped the job."), timer, run.warnings))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the caller gets an answer and the worker lives on
            ended = _failed(identity, worker, error, timer, run.warnings)
        best_effort = isinstance(ended, Stopped) or run.cancel.remaining == 0.0
        delivered = await worker.callbacks.dispatch(ended.payload, identity, best_effort=best_effort)
        logger().info("job ended", outcome=type(ended).__name__.lower(), ms=round(timer.total * 1000, 1))
        return replace(ended, callback_pending=not delivered)


async def _complete(job: Job, identity: Identity, worker: Worker[RequestT], run: JobRun, timer: StepTimer) -> CompletedPayload:
    with job_executor() as threads:
        request = await _validate(job, worker, threads, run, timer)
        run.warnings.extend(request.warnings)
        await worker.callbacks.dispatch_processing(identity, worker.id, run.cancel)
        references = await _fetch(request, worker, threads, run, timer)
        with worker.callbacks.upload_session(identity) as uploads:
            summary, assets = await _make(request, references, worker, threads, uploads, run, timer)
            done = check_result_size(payload.completed(request, worker.id, assets, summary, timer, run.warnings))
            return await await_or_cancel(submit(threads, partial(uploads.finalize, done)), run.cancel)


async def _validate(job: Job, worker: Worker[RequestT], threads: Executor, run: JobRun, timer: StepTimer) -> RequestT:
    """On a thread, because a large request takes its time and other jobs, and stop signals, wait for the event loop."""

    def validate() -> RequestT:
        with timer.step("validate"):
            request = worker.request.parse(job.input, job_id=job.id, operator=worker.operator)
            worker.recipe.check(request)
            return request

    return await await_or_cancel(submit(threads, validate), run.cancel)


async def _fetch(request: RequestT, worker: Worker[RequestT], threads: Executor, run: JobRun, timer: StepTimer) -> dict[str, Image.Image]:
    """Fetches all references side by side."""
    if not request.references:
        return {}
    with timer.step("fetch"):
        fetch = partial(worker.fetcher.fetch, user_id=request.user_id, seconds=run.cancel.remaining)
        fetching = {name: submit(threads, partial(fetch, reference, field=name)) for name, reference in request.references.items()}
        async with drain(fetching.values()):
            references = {name: await await_or_cancel(future, run.cancel) for name, future in fetching.items()}
        run.cancel.check()
        return references


async def _make(
    request: RequestT,
    references: Mapping[str, Image.Image],
    worker: Worker[RequestT],
    threads: Executor,
    uploads: UploadSession,
    run: JobRun,
    timer: StepTimer,
) -> tuple[Summary, list[Asset]]:
    """Each output is encoded and uploaded as soon as it exists, while the next is still being made."""
    outputs: list[Output] = []
    storing: list[Future[Asset]] = []

    def generate() -> Summary:
        with timer.step("generate"), contextlib.closing(worker.recipe.generate(request, references, run)) as making:
            for index, output in enumerate(making):
                run.cancel.check()
                outputs.append(output)
                storing.append(submit(threads, partial(store_output, output, index, request, uploads, run.cancel, timer)))
                _raise_first_failure(storing)
        # Here, before the next job begins: what a recipe says of the GPU would be about that one.
        return worker.recipe.summarize(request, outputs)

    async with drain(storing):
        summary = await worker.gpu.run(generate, run.cancel)
        assets = [await await_or_cancel(future, run.cancel) for future in storing]
    return summary, assets


def _raise_first_failure(storing: list[Future[Asset]]) -> None:
    """Ends the making of pictures that nobody could be given, because storage has refused an earlier one."""
    for future in storing:
        if future.done():
            future.result()


def _failed(identity: Identity, worker: Worker[RequestT], error: Exception, timer: StepTimer, warnings: Sequence[str]) -> Failed:
    known = classify(error, identity.job_id)
    if known.replaces_worker:
        worker.gpu.mark_lost()
    # What the caller can mend is no fault of the worker.
    log_error("job failed", error, "error" if known.retryable else "warning", code=known.code)
    clear_exception_frames(error)
    return Failed(payload.failed(identity, worker.id, known, timer, warnings), known)
