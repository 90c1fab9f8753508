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
from shared.errors import Cancelled, JobError, classify, let_go
from shared.fetch import Fetcher
from shared.jobs import payload
from shared.jobs.assets import store
from shared.jobs.delivery.callbacks import Courier, deliverable
from shared.jobs.delivery.uploads import Parcel
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.execution.threads import finished, settled, submit, threads_of_its_own
from shared.jobs.execution.watchdog import overseen
from shared.jobs.recipe import Product, Recipe, Run, Summary
from shared.storage.protocol import Storage
from shared.telemetry import Clock, job_context, log_error, logger

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
    courier: Courier
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


Ended = Completed | Failed | Stopped


async def run_job(job: Job, worker: Worker[RequestT], run: Run) -> Ended:
    """Validate → fetch → generate → encode → upload → call back → return.

    Args:
        job: What arrived.
        worker: What it is done with.
        run: The job's cancel token and progress. Cancelling the task that runs this stops the work within one step; this returns
            `Stopped` when the work has ended.
    """
    clock = Clock(STEPS)
    identity = identify(job.input, job_id=job.id, operator=worker.operator)
    with job_context(identity.job_id):
        ended: Ended
        try:
            work = _complete(job, identity, worker, run, clock)
            ended = Completed(await overseen(work, run.cancel, grace=worker.grace))
        except asyncio.CancelledError:
            ended = Stopped(payload.failed(identity, worker.id, Cancelled("RunPod stopped the job."), clock, run.warnings))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the caller gets an answer and the worker lives on
            ended = _failed(identity, worker, error, clock, run.warnings)
        hastily = isinstance(ended, Stopped) or run.cancel.left == 0.0
        delivered = await worker.courier.deliver(ended.payload, identity, hastily=hastily)
        logger().info("job ended", outcome=type(ended).__name__.lower(), ms=round(clock.total * 1000, 1))
        return replace(ended, callback_pending=not delivered)


async def _complete(job: Job, identity: Identity, worker: Worker[RequestT], run: Run, clock: Clock) -> CompletedPayload:
    with threads_of_its_own() as threads:
        request = await _validate(job, worker, threads, run, clock)
        run.warnings.extend(request.warnings)
        await worker.courier.announce(identity, worker.id, run.cancel)
        references = await _fetch(request, worker, threads, run, clock)
        with worker.courier.parcel(identity) as parcel:
            summary, assets = await _make(request, references, worker, threads, parcel, run, clock)
            done = deliverable(payload.completed(request, worker.id, assets, summary, clock, run.warnings))
            return await finished(submit(threads, partial(parcel.close, done)), run.cancel)


async def _validate(job: Job, worker: Worker[RequestT], threads: Executor, run: Run, clock: Clock) -> RequestT:
    """On a thread, because a large request takes its time and other jobs, and stop signals, wait for the event loop."""

    def validate() -> RequestT:
        with clock.step("validate"):
            request = worker.request.parse(job.input, job_id=job.id, operator=worker.operator)
            worker.recipe.accept(request)
            return request

    return await finished(submit(threads, validate), run.cancel)


async def _fetch(request: RequestT, worker: Worker[RequestT], threads: Executor, run: Run, clock: Clock) -> dict[str, Image.Image]:
    """Fetches all references side by side."""
    if not request.references:
        return {}
    with clock.step("fetch"):
        fetch = partial(worker.fetcher.fetch, user_id=request.user_id, seconds=run.cancel.left)
        fetching = {name: submit(threads, partial(fetch, reference, field=name)) for name, reference in request.references.items()}
        async with settled(fetching.values()):
            references = {name: await finished(future, run.cancel) for name, future in fetching.items()}
        run.cancel.check()
        return references


async def _make(
    request: RequestT,
    references: Mapping[str, Image.Image],
    worker: Worker[RequestT],
    threads: Executor,
    parcel: Parcel,
    run: Run,
    clock: Clock,
) -> tuple[Summary, list[Asset]]:
    """Each product is encoded and uploaded as soon as it exists, while the next is still being made."""
    products: list[Product] = []
    storing: list[Future[Asset]] = []

    def generate() -> Summary:
        with clock.step("generate"), contextlib.closing(worker.recipe.generate(request, references, run)) as making:
            for index, product in enumerate(making):
                run.cancel.check()
                products.append(product)
                storing.append(submit(threads, partial(store, product, index, request, parcel, run.cancel, clock)))
                _raise_first_failure(storing)
        # Here, before the next job begins: what a recipe says of the GPU would be about that one.
        return worker.recipe.summarize(request, products)

    async with settled(storing):
        summary = await worker.gpu.run(generate, run.cancel)
        assets = [await finished(future, run.cancel) for future in storing]
    return summary, assets


def _raise_first_failure(storing: list[Future[Asset]]) -> None:
    """Ends the making of pictures that nobody could be given, because storage has refused an earlier one."""
    for future in storing:
        if future.done():
            future.result()


def _failed(identity: Identity, worker: Worker[RequestT], error: Exception, clock: Clock, warnings: Sequence[str]) -> Failed:
    known = classify(error, identity.job_id)
    if known.replaces_worker:
        worker.gpu.condemn()
    # What the caller can mend is no fault of the worker.
    log_error("job failed", error, "error" if known.retryable else "warning", code=known.code)
    let_go(error)
    return Failed(payload.failed(identity, worker.id, known, clock, warnings), known)
