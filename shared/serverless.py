"""The only file that knows RunPod: job in, cancel signal, progress, result out.

What the SDK does and does not do is written down in `docs/decisions/0001-one-gpu-thread.md`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import JsonValue

from shared.contract.request import Request
from shared.fetch import Fetcher
from shared.handler import Handler
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.redelivery import Redelivery
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.execution.in_flight import InFlightJobs
from shared.jobs.execution.threads import wait_done
from shared.jobs.execution.watchdog import GracefulShutdown, end_process
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, Worker, run_job
from shared.jobs.presentation import HandlerResponse
from shared.jobs.recipe import JobRun
from shared.jobs.streaming.progress import Progress
from shared.jobs.streaming.text import TextStream
from shared.self_check import parse_scope, self_check, startup_problems
from shared.settings import Settings, SettingsError, on_runpod, prepare_environment, read_settings
from shared.storage import open_storage
from shared.telemetry import configure_logging, logger, watch_errors
from shared.webhooks import Webhook

RequestT = TypeVar("RequestT", bound=Request)
T = TypeVar("T")

# A piece of text is one request of the SDK, and a reader sees no difference below this: seconds between two.
_STREAM_INTERVAL = 0.075
# Seconds that one progress update may take on its way.
_UPDATE_SECONDS = 10.0


def serve(handler: Handler[RequestT]) -> None:
    """Checks the machine, loads the models, and works until RunPod stops the process.

    A worker that cannot start says why: to RunPod as a failed fitness check, to a person on standard error with exit code 1.
    With `--check` on its command line it only looks whether it could start.
    """
    prepare_environment()
    configure_logging("INFO")  # until it is known what the operator wants: not even this may fail in too many words
    if (scope := parse_scope(sys.argv[1:])) is not None:
        self_check(scope, handler.libraries, handler.checks, handler.required_weights)
    try:
        settings = _checked("configuration", read_settings)
        configure_logging(settings.log_level)
        _look_over(handler, settings)
        worker = _start_worker(handler, settings)
    except _Unfit as unfit:
        _refuse_to_start(unfit)
    else:
        endpoint = _Endpoint(handler, worker, settings)
        _start_sdk(endpoint.config)
        if worker.gpu.is_lost:
            end_process()  # with a code that says so, and without waiting for threads that may never end


class _Unfit(Exception):
    """The worker cannot start.

    Args:
        check: Which of the checks has failed.
        reason: What the operator should do.
    """

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(reason)
        self.check = check


def _checked(name: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except SettingsError as error:
        raise _Unfit(name, str(error)) from None


def _refuse_to_start(unfit: _Unfit) -> None:
    """Tells RunPod through its own fitness checks, which end the process with code 1; without RunPod, ends it likewise."""
    if not on_runpod():
        sys.exit(f"This worker cannot start ({unfit.check}). {unfit}")

    def check() -> None:
        raise unfit

    check.__name__ = unfit.check
    _runpod().register_fitness_check(check)
    _start_sdk({"handler": lambda _job: None})


def _look_over(handler: Handler[RequestT], settings: Settings) -> None:
    """Before anything is loaded, says in one message everything that is wrong.

    Raises:
        _Unfit: Something is.
    """
    wrong = startup_problems(settings, handler.checks, handler.required_weights(settings))
    if not wrong:
        return
    # RunPod cuts the message of a fitness check off after 256 characters; the log has all of it.
    logger().error("this worker cannot start", **{name.replace(" ", "_"): reason for name, reason in wrong.items()})
    if len(wrong) == 1:
        raise _Unfit(*next(iter(wrong.items())))
    listed = " | ".join(f"{name}: {reason}" for name, reason in wrong.items())
    raise _Unfit("start", f"{len(wrong)} things are wrong ({', '.join(wrong)}). {listed}")


def _start_worker(handler: Handler[RequestT], settings: Settings) -> Worker[RequestT]:
    storage, webhook = open_storage(settings), Webhook(settings)
    outbox = Outbox(settings.outbox, max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age)
    gpu = GpuThread()
    recipe = _checked("weights", lambda: gpu.submit(partial(handler.load, settings)).result())
    concurrency = handler.concurrency(recipe, settings)
    # Of their own, so that a receiver that does not answer keeps no upload waiting.
    callbacks = ThreadPoolExecutor(concurrency, thread_name_prefix="callback")
    Redelivery(outbox, storage, webhook).start()
    return Worker(
        id=f"{handler.name}_worker_{settings.runpod_pod_id}",
        request=handler.request,
        recipe=recipe,
        operator=handler.operator(settings),
        storage=storage,
        fetcher=Fetcher(settings),
        callbacks=CallbackDispatcher(storage, webhook, callbacks, always_callback=handler.always_callback, send_processing=settings.callback_processing, outbox=outbox),
        gpu=gpu if handler.max_concurrency is None else GpuThread(concurrency),
        grace=settings.job_grace,
        concurrency=concurrency,
    )


class _Endpoint(Generic[RequestT]):
    """The forms of a RunPod handler over one worker, and the configuration that the SDK looks at while it runs."""

    def __init__(self, handler: Handler[RequestT], worker: Worker[RequestT], settings: Settings) -> None:
        self._handler = handler
        self._worker = worker
        self._settings = settings
        self._timeout = settings.timeout_of(handler.name)
        # All that may still follow a job's deadline: the last step, `callback.json`, the callback.
        self._shutdown = GracefulShutdown(settings.job_grace + settings.upload_deadline + settings.callback_deadline)
        self._in_flight, self._starting = InFlightJobs(), threading.Lock()
        self._since = int(time.time())
        # The SDK tells the forms apart by looking at the function.
        streaming = self.stream if settings.on_runpod else self.stream_here
        self.config: dict[str, Any] = {
            "handler": streaming if handler.streams(settings) else self.complete,
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _current: worker.concurrency,
        }

    async def complete(self, job: dict[str, Any]) -> HandlerResponse:
        """Runs one job and returns what its caller gets."""
        if (answer := self._answer_without_job(job)) is not None:
            return answer
        send = partial(_send_update, self._starting, job) if self._settings.on_runpod else _send_nowhere
        end = await self._work(job, Progress(send, self._settings.progress_interval))
        return self._handler.present(str(job["id"]), job.get("input")).result(end)

    async def stream(self, job: dict[str, Any]) -> AsyncIterator[HandlerResponse]:
        """Runs one job, yields its text in pieces while it is written, and what says how it ended last."""
        if (answer := self._answer_without_job(job)) is not None:
            yield answer
            return
        presentation = self._handler.present(str(job["id"]), job.get("input"))
        async with TextStream(partial(self._work, job), _STREAM_INTERVAL) as text:
            async for piece in text.deltas():
                yield presentation.piece(piece)
            for output in presentation.last(await text.result):
                yield output

    async def stream_here(self, job: dict[str, Any]) -> HandlerResponse | list[HandlerResponse]:
        """Runs one job on this machine as a stream: the SDK itself would not run a generator here, and call that a success."""
        outputs = [output async for output in self.stream(job)]
        failed = isinstance(outputs[-1], dict) and "error" in outputs[-1]
        return outputs[-1] if failed else outputs

    def _answer_without_job(self, job: Mapping[str, Any]) -> HandlerResponse | None:
        return self._handler.answer_without_job(job.get("input"), self._worker.recipe, self._since)

    async def _work(self, job: dict[str, Any], progress: Progress) -> Completed | Failed:
        seconds = _deadline(job, self._timeout)
        token = CancelToken(seconds)
        with self._shutdown.track_job(seconds), progress:
            work = run_job(Job(str(job["id"]), job.get("input")), self._worker, JobRun(str(job["id"]), token, progress.report))
            end = await self._in_flight.run(str(job["id"]), work)
            if isinstance(end, Stopped):
                progress.drop()
            # In a thread, because other jobs run on this loop, and before the result, because an update after it would reopen the job.
            await wait_done(asyncio.ensure_future(asyncio.to_thread(progress.close)))
        if self._worker.gpu.is_lost:
            # On the live configuration: the SDK posts this result and ends its loop, while the flag in a result would not keep the worker
            # from taking another job. That loop may then wait for what does not end, so the process does not wait for it.
            self.config["refresh_worker"] = True
            self._shutdown.start()
        if isinstance(end, Stopped):
            raise asyncio.CancelledError  # what the SDK needs to see to free the slot without posting a result
        return end


def _deadline(job: Mapping[str, Any], timeout: float) -> float:
    """Seconds for a job: the operator's limit, or RunPod's for this job where that is shorter."""
    policy = job.get("policy")
    milliseconds = policy.get("executionTimeout") if isinstance(policy, dict) else None
    if isinstance(milliseconds, int) and milliseconds > 0:
        # Ends shortly before RunPod would, so that the caller is told.
        return min(timeout, 0.95 * milliseconds / 1000)
    return timeout


def _send_nowhere(_update: Mapping[str, JsonValue]) -> None:
    """Progress of a local run: there is nobody to tell, and the SDK would log an error."""


def _send_update(starting: threading.Lock, job: dict[str, Any], update: Mapping[str, JsonValue]) -> None:
    """Sends one update and returns when it has arrived. The SDK starts a thread for each and would let them overtake each other."""
    with starting:  # one at a time, so that the thread is known, and no job waits for the updates of another
        others = set(threading.enumerate())
        _runpod().progress_update(job, update)
        mine = [thread for thread in set(threading.enumerate()) - others if "_thread_target" in thread.name]
    for thread in mine:
        thread.join(timeout=_UPDATE_SECONDS)


def _runpod() -> Any:
    """The SDK. It takes more than a second to import, and reads its environment while it does."""
    import runpod.serverless

    return runpod.serverless


def _start_sdk(config: dict[str, Any]) -> None:
    try:
        _runpod().start(config)
    finally:
        watch_errors()  # the SDK has put a hook of its own there, which prints tracebacks
