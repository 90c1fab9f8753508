"""The lifecycle of a job, from its input to its outcome. Start reading at `run_job`.

A job ends exactly once, as `Completed`, `Failed` or `Stopped`, each of which is constructed in one place. The payload of the outcome is
dispatched as a callback and returned to RunPod. This module has the only blind `except` of the code base: the details of an unexpected
error go to the log and never leave the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from PIL import Image

from shared.contract.assets import Asset
from shared.contract.callback import CompletedPayload, FailedPayload
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
from shared.media.images import PixelBudget
from shared.storage.protocol import Storage
from shared.telemetry import StepTimer, Tracer, job_context, log_error, logger

STEPS = ("validate", "fetch", "generate", "encode", "upload")
RequestT = TypeVar("RequestT", bound=Request)


@dataclass(frozen=True)
class Job:
    """A job as it was received: RunPod's id and the raw input."""

    id: str
    input: object = field(repr=False)


@dataclass(frozen=True)
class Worker(Generic[RequestT]):
    """The resources that all jobs of a process share.

    Attributes:
        id: Appears in payloads: `sdxl_worker_<pod>`.
        request: Parses the inputs.
        recipe: The handler, its models loaded.
        operator: The operator's settings that requests are validated against.
        storage: Stores the assets.
        fetcher: Downloads the references.
        callbacks: Delivers the payloads.
        gpu: The thread that owns the GPU; for a recipe with a GPU thread of its own, one thread per concurrent job.
        grace: Seconds that a step may take beyond a job's deadline. After that the job fails without its work, and the worker is replaced.
        concurrency: Maximum number of jobs in flight.
        types_of: Returns the MIME types of the files that a job stores.
        max_bytes_of: Returns an upper bound of their bytes together; 0 if there is none.
        tracer: Starts the traces of jobs.
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
    types_of: Callable[[RequestT], Collection[str]] = lambda _request: ()
    max_bytes_of: Callable[[RequestT], int] = lambda _request: 0
    tracer: Tracer = field(default_factory=Tracer)


@dataclass(frozen=True)
class Completed:
    """Every requested output exists, and everything that the payload reports as stored is stored."""

    payload: CompletedPayload
    callback_pending: bool = False


@dataclass(frozen=True)
class Failed:
    """There is no result; the payload gives the reason."""

    payload: FailedPayload
    error: JobError
    callback_pending: bool = False


@dataclass(frozen=True)
class Stopped:
    """RunPod cancelled the job. The payload is for the receiver of callbacks only: RunPod expects no result."""

    payload: FailedPayload
    callback_pending: bool = False


Outcome = Completed | Failed | Stopped


async def run_job(job: Job, worker: Worker[RequestT], run: JobRun) -> Outcome:
    """Runs one job: validate → fetch → generate → encode → upload → callback → return.

    Args:
        job: The job as received.
        worker: The process's resources.
        run: The job's cancellation token and progress. Cancelling the task that runs this stops the work within one step; `Stopped` is
            returned once the work has ended.
    """
    identity = identify(job.input, job_id=job.id, operator=worker.operator)
    trace = worker.tracer.start(identity.trace, _trace_attributes(identity, worker))
    identity, timer = replace(identity, trace=trace.context), StepTimer(STEPS, trace.stage)
    with job_context(identity.job_id, identity.trace):
        outcome: Outcome
        try:
            work = _complete(job, identity, worker, run, timer)
            outcome = Completed(await run_with_deadline(work, run.cancel, grace=worker.grace))
        except asyncio.CancelledError:
            outcome = Stopped(payload.failed(identity, worker.id, Cancelled("RunPod cancelled the job."), timer, run.warnings))
        except Exception as error:  # noqa: BLE001 - any error must be answered, and must not end the worker
            outcome = _failed(identity, worker, error, timer, run.warnings)
        best_effort = isinstance(outcome, Stopped) or run.cancel.remaining == 0.0
        with trace.stage("callback"):
            delivered = await worker.callbacks.dispatch(outcome.payload, identity, best_effort=best_effort)
        trace.end(type(outcome).__name__.lower(), outcome.payload.metadata.error_code if not isinstance(outcome, Completed) else None)
        logger().info("job ended", outcome=type(outcome).__name__.lower(), ms=round(timer.total * 1000, 1))
        return replace(outcome, callback_pending=not delivered)


async def _complete(job: Job, identity: Identity, worker: Worker[RequestT], run: JobRun, timer: StepTimer) -> CompletedPayload:
    with job_executor() as threads:
        request = await _validate(job, worker, threads, run, timer)
        run.warnings.extend(request.warnings)
        await worker.callbacks.dispatch_processing(identity, worker.id, run.cancel)
        references = await _fetch(request, worker, threads, run, timer)
        with worker.callbacks.upload_session(identity) as uploads:
            summary, assets = await _generate(request, references, worker, threads, uploads, run, timer)
            done = check_result_size(payload.completed(identity, request, worker.id, assets, summary, timer, run.warnings))
            return await await_or_cancel(submit(threads, partial(uploads.finalize, done)), run.cancel)


async def _validate(job: Job, worker: Worker[RequestT], threads: Executor, run: JobRun, timer: StepTimer) -> RequestT:
    """Parses the input on a thread: a large request would block the event loop, and with it other jobs and cancellation."""

    def validate() -> RequestT:
        with timer.step("validate"):
            request = worker.request.parse(job.input, job_id=job.id, operator=worker.operator)
            worker.recipe.check(request)
            worker.storage.ensure_accepts(worker.types_of(request), max_bytes=worker.max_bytes_of(request))
            return request

    return await await_or_cancel(submit(threads, validate), run.cancel)


async def _fetch(request: RequestT, worker: Worker[RequestT], threads: Executor, run: JobRun, timer: StepTimer) -> dict[str, Image.Image]:
    """Fetches all references concurrently."""
    if not request.references:
        return {}
    with timer.step("fetch"):
        fetch = partial(worker.fetcher.fetch, user_id=request.user_id, seconds=run.cancel.remaining, budget=PixelBudget())
        fetching = {name: submit(threads, partial(fetch, reference, field=name)) for name, reference in request.references.items()}
        async with drain(fetching.values()):
            references = {name: await await_or_cancel(future, run.cancel) for name, future in fetching.items()}
        run.cancel.check()
        return references


async def _generate(
    request: RequestT,
    references: Mapping[str, Image.Image],
    worker: Worker[RequestT],
    threads: Executor,
    uploads: UploadSession,
    run: JobRun,
    timer: StepTimer,
) -> tuple[Summary, list[Asset]]:
    """Runs the recipe. Each output is encoded and uploaded while the next one is still being generated."""
    outputs: list[Output] = []
    storing: list[Future[Asset]] = []

    def generate() -> Summary:
        with timer.step("generate"), contextlib.closing(worker.recipe.generate(request, references, run)) as generating:
            for index, output in enumerate(generating):
                run.cancel.check()
                outputs.append(output)
                storing.append(submit(threads, partial(store_output, output, index, request, uploads, run.cancel, timer)))
                _raise_first_failure(storing)
        # On this thread, before the next job starts: a recipe may report the state of the GPU, which would then be the next job's.
        return worker.recipe.summarize(request, outputs)

    async with drain(storing):
        summary = await worker.gpu.run(generate, run.cancel)
        assets = [await await_or_cancel(future, run.cancel) for future in storing]
    return summary, assets


def _trace_attributes(identity: Identity, worker: Worker[RequestT]) -> dict[str, str]:
    """Returns what a trace says of a job: ids and its type."""
    known = {"job.id": identity.job_id, "job.type": identity.job_type, "runpod.job_id": identity.runpod_id, "worker.id": worker.id}
    return {name: value for name, value in known.items() if value}


def _raise_first_failure(storing: list[Future[Asset]]) -> None:
    """Stops generating once an upload has failed."""
    for future in storing:
        if future.done():
            future.result()


def _failed(identity: Identity, worker: Worker[RequestT], error: Exception, timer: StepTimer, warnings: Sequence[str]) -> Failed:
    known = classify(error, identity.job_id)
    if known.replaces_worker:
        worker.gpu.mark_lost()
    # An error that the caller can correct is not an error of the worker.
    log_error("job failed", error, "error" if known.retryable else "warning", code=known.code)
    clear_exception_frames(error)
    return Failed(payload.failed(identity, worker.id, known, timer, warnings), known)
