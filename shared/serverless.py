"""The RunPod boundary: jobs and cancellations in, progress and results out. With `shared/runpod_sdk.py` it alone knows RunPod's SDK.

It builds a worker from a `Handler` and knows no handler by name. The properties of the SDK that it works around are listed in
`docs/decisions/0001-one-gpu-thread.md`.
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

from shared.child_environment import forget_secrets
from shared.command_line import CommandLineError, parse_command_line
from shared.contract.request import Request
from shared.fetch import Fetcher
from shared.handler import Handler
from shared.jobs.delivery.callbacks import CallbackDispatcher
from shared.jobs.delivery.outbox import open_outbox
from shared.jobs.delivery.redelivery import Redelivery
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread
from shared.jobs.execution.in_flight import InFlightJobs
from shared.jobs.execution.threads import wait_done
from shared.jobs.execution.watchdog import GracefulShutdown, end_process
from shared.jobs.lifecycle import Completed, Failed, Job, Stopped, Worker, run_job
from shared.jobs.presentation import HandlerResponse, Presentation, ends_as_failed
from shared.jobs.recipe import JobRun, discard_piece
from shared.jobs.streaming.output import Emit, OutputStream
from shared.jobs.streaming.progress import Progress
from shared.runpod_sdk import all_posted, runpod_serverless, send_update, start_sdk, stream_poster
from shared.self_check import self_check, startup_problems
from shared.settings import Settings, SettingsError, on_runpod, prepare_environment, read_settings
from shared.storage import open_storage
from shared.telemetry import StartTimeline, configure_logging, logger
from shared.tracing import open_tracer
from shared.webhooks import Webhook
from shared.weights.errors import WeightsError

RequestT = TypeVar("RequestT", bound=Request)
T = TypeVar("T")

# Seconds between two chunks of a stream. Each is a request to RunPod, and readers see no difference below this.
_STREAM_INTERVAL = 0.075
# Seconds from the start of a worker, usually because of a waiting job, in which its first job arrives: idle work would only delay that.
_FIRST_JOB_WITHIN = 10.0
_COMMAND_LINE = "command line"


def serve(handler: Handler[RequestT]) -> None:
    """Checks the machine, loads the models, and serves jobs until RunPod stops the process.

    A worker that cannot start reports why: to RunPod as a failed fitness check, otherwise on standard error with exit code 1.
    With `--check` on its command line it only runs the self-check (`shared/command_line.py` has all options).
    """
    timeline = StartTimeline()
    timeline.mark("process")
    prepare_environment()
    configure_logging("INFO")  # until the configured level is known; reading it may already log an error
    try:
        command = _checked(_COMMAND_LINE, lambda: parse_command_line(handler.name, sys.argv[1:]))
        if command.check is not None:
            self_check(command.check, handler.all_libraries, handler.checks, handler.required_weights, handler.stored_types, handler.load)
        settings = _checked("configuration", read_settings)
        forget_secrets()
        configure_logging(settings.log_level)
        _preflight(handler, settings)
        if not on_runpod():
            _checked(_COMMAND_LINE, lambda: command.ensure_job(handler.name))
        timeline.mark("checks")
        worker = _start_worker(handler, settings, timeline)
    except _StartupError as error:
        _refuse_to_start(error)
    else:
        endpoint = _Endpoint(handler, worker, settings)
        if command.api_address is not None:
            logger().info("local API", address=command.api_address, jobs="POST /runsync")
        timeline.mark("worker")
        timeline.log()
        start_sdk(endpoint.config)
        if worker.gpu.is_lost:
            end_process()  # with a non-zero code, and without joining threads that may never end


class _StartupError(Exception):
    """The worker cannot start.

    Args:
        check: The check that has failed.
        reason: What is wrong, and what the operator can do.
    """

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(reason)
        self.check = check


def _checked(name: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except (CommandLineError, SettingsError, WeightsError) as error:
        raise _StartupError(name, str(error)) from None


def _refuse_to_start(error: _StartupError) -> None:
    """Fails a fitness check of the SDK, which reports to RunPod and exits with code 1; without RunPod, exits with code 1 directly."""
    if not on_runpod():
        sys.exit(str(error) if error.check == _COMMAND_LINE else f"This worker cannot start ({error.check}). {error}")

    def check() -> None:
        raise error

    check.__name__ = error.check
    runpod_serverless().register_fitness_check(check)
    start_sdk({"handler": lambda _job: None})


def _preflight(handler: Handler[RequestT], settings: Settings) -> None:
    """Checks everything before anything is loaded.

    Raises:
        _StartupError: Names all problems at once.
    """
    problems = startup_problems(settings, handler.checks, handler.required_weights(settings), handler.stored_types)
    if not problems:
        return
    # RunPod truncates the message of a fitness check to 256 characters; the log has all of it.
    logger().error("worker cannot start", **{name.replace(" ", "_"): problem for name, problem in problems.items()})
    if len(problems) == 1:
        raise _StartupError(*next(iter(problems.items())))
    listed = " | ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise _StartupError("start", f"{len(problems)} things are wrong ({', '.join(problems)}). {listed}")


def _start_worker(handler: Handler[RequestT], settings: Settings, timeline: StartTimeline) -> Worker[RequestT]:
    storage, webhook, outbox = open_storage(settings), Webhook(settings), open_outbox(settings)
    gpu = GpuThread()
    loading = gpu.submit(partial(handler.load, settings))
    runpod_serverless()  # imported while the weights are read
    timeline.mark("sdk")
    recipe = _checked("weights", loading.result)
    timeline.mark("load")
    concurrency = handler.concurrency(recipe, settings)
    redelivery = Redelivery(outbox, storage, webhook)
    callbacks = CallbackDispatcher(
        storage,
        webhook,
        # A separate executor, so that an unresponsive receiver delays no upload.
        ThreadPoolExecutor(concurrency, thread_name_prefix="callback"),
        always_callback=handler.always_callback,
        send_processing=settings.callback_processing,
        outbox=outbox,
        on_delivered=redelivery.trigger,
    )
    redelivery.start()
    return Worker(
        id=f"{handler.name}_worker_{settings.runpod_pod_id}",
        request=handler.request,
        recipe=recipe,
        operator=handler.operator(settings),
        storage=storage,
        fetcher=Fetcher(settings),
        callbacks=callbacks,
        gpu=gpu if handler.max_concurrency is None else GpuThread(concurrency),
        grace=settings.job_grace,
        concurrency=concurrency,
        types_of=handler.types_of_job,
        max_bytes_of=handler.max_bytes_of,
        tracer=open_tracer(settings, f"{handler.name}-worker"),
    )


class _Endpoint(Generic[RequestT]):
    """The RunPod handler functions over one worker.

    Attributes:
        config: What the SDK is started with, and reads again while it runs.
    """

    def __init__(self, handler: Handler[RequestT], worker: Worker[RequestT], settings: Settings) -> None:
        self._handler = handler
        self._worker = worker
        self._settings = settings
        self._sends_updates = settings.on_runpod
        self._timeout = settings.job_timeout_for(handler.name)
        # Everything that may follow a job's deadline: the last step, `callback.json`, the callback.
        slack = settings.job_grace + settings.upload_deadline + settings.callback_deadline
        self._shutdown = GracefulShutdown(slack, all_posted=all_posted)
        self._in_flight, self._update_lock = InFlightJobs(), threading.Lock()
        self._started = int(time.time())
        # The SDK inspects the function: an asynchronous generator streams, and its final output is the list of all that it yields.
        streaming = handler.streams(settings)
        local = self.stream_to_local_server if "--rp_serve_api" in sys.argv else self.stream_locally  # the SDK's server, or a single job
        self.config: dict[str, Any] = {
            "handler": (self.stream if settings.on_runpod else local) if streaming else self.complete,
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _current: worker.concurrency,
        }
        handler.watch(worker.recipe, self._lose_engine)
        worker.gpu.run_when_idle(handler.idle_work(worker.recipe), delay=_FIRST_JOB_WITHIN)

    async def complete(self, job: dict[str, Any]) -> HandlerResponse:
        """Runs one job and returns its response. The chunks of a streamed job are posted meanwhile."""
        if (response := self._answer_without_job(job)) is not None:
            return response
        presentation = self._handler.present(str(job["id"]), job.get("input"))
        if presentation.streams and self._sends_updates:
            return await self._complete_streaming(job, presentation)
        send = partial(send_update, self._update_lock, job) if self._sends_updates else _discard_update
        return presentation.result(await self._run(job, Progress(send, self._settings.progress_interval)))

    async def _complete_streaming(self, job: dict[str, Any], presentation: Presentation) -> HandlerResponse:
        async with stream_poster(job) as post, self._start_streaming(job) as output:
            async for pieces in output.batches():
                await post(presentation.delta(pieces))
            outcome = await output.result
            for response in presentation.final(outcome):
                if not ends_as_failed(response):
                    await post(response)
        return presentation.result(outcome)

    async def stream(self, job: dict[str, Any]) -> AsyncIterator[HandlerResponse]:
        """Runs one job and yields its output while it is generated, then the responses that end the stream."""
        if (response := self._answer_without_job(job)) is not None:
            yield response
            return
        presentation = self._handler.present(str(job["id"]), job.get("input"))
        async with self._start_streaming(job) as output:
            async for pieces in output.batches():
                yield presentation.delta(pieces)
            for response in presentation.final(await output.result):
                yield response

    async def stream_locally(self, job: dict[str, Any]) -> HandlerResponse | list[HandlerResponse]:
        """Runs one local job as a stream. A coroutine, because the SDK does not run a generator locally, but reports success."""
        responses = [response async for response in self.stream(job)]
        return responses[-1] if ends_as_failed(responses[-1]) else responses

    async def stream_to_local_server(self, job: dict[str, Any]) -> AsyncIterator[HandlerResponse]:
        """Streams to the SDK's local server, which cannot represent what ends a job as failed. The error is in the response before."""
        async for response in self.stream(job):
            if not ends_as_failed(response):
                yield response

    def _start_streaming(self, job: dict[str, Any]) -> OutputStream[Completed | Failed]:
        return OutputStream(lambda emit: self._run(job, Progress(_discard_update, _STREAM_INTERVAL), emit), _STREAM_INTERVAL)

    def _answer_without_job(self, job: Mapping[str, Any]) -> HandlerResponse | None:
        answer = self._handler.answer_without_job
        return answer(job.get("input"), self._worker.recipe, self._started) if answer is not None else None

    async def _run(self, job: dict[str, Any], progress: Progress, emit: Emit = discard_piece) -> Completed | Failed:
        seconds = _seconds_for(job, self._timeout)
        run = JobRun(str(job["id"]), CancelToken(seconds), progress.report, emit)
        with self._shutdown.track_job(seconds), progress:
            work = run_job(Job(run.job_id, job.get("input")), self._worker, run)
            outcome = await self._in_flight.run(str(job["id"]), work)
            if isinstance(outcome, Stopped):
                progress.drop()
            # On a thread, so as not to block other jobs; and before the result, because an update after it would reopen the job.
            await wait_done(asyncio.ensure_future(asyncio.to_thread(progress.close)))
        if self._worker.gpu.is_lost:
            self._replace_worker()
        if isinstance(outcome, Stopped):
            raise asyncio.CancelledError  # by which the SDK frees the slot without posting a result
        return outcome

    def _lose_engine(self) -> None:
        """Called from another thread, also while no job is in flight."""
        self._worker.gpu.mark_lost()
        self._replace_worker()

    def _replace_worker(self) -> None:
        # In the live configuration: the SDK then posts the results and ends its loop, whereas the flag in a result would not keep the
        # worker from taking another job. Its loop may wait for threads that never end, so the process has a timer of its own.
        self.config["refresh_worker"] = True
        self._shutdown.start()


def _seconds_for(job: Mapping[str, Any], timeout: float) -> float:
    """Returns a job's time limit: the operator's, or RunPod's own for this job if that is shorter."""
    policy = job.get("policy")
    milliseconds = policy.get("executionTimeout") if isinstance(policy, dict) else None
    if isinstance(milliseconds, int) and milliseconds > 0:
        # Slightly earlier than RunPod, which would tell the caller nothing.
        return min(timeout, 0.95 * milliseconds / 1000)
    return timeout


def _discard_update(_update: Mapping[str, JsonValue]) -> None:
    """Discards the progress of a local run: it has no receiver, and the SDK would log an error."""
