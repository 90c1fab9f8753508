"""Calls of RunPod's SDK: its start, progress updates, streamed chunks, and what it has still to post."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from pydantic import JsonValue

from shared.jobs.presentation import HandlerResponse
from shared.telemetry import install_exception_hooks

# Seconds that the delivery of one progress update may take.
_UPDATE_TIMEOUT = 10.0


def send_update(lock: threading.Lock, job: dict[str, Any], update: Mapping[str, JsonValue]) -> None:
    """Sends one update and waits for its delivery. The SDK starts a thread per update, and these would overtake each other."""
    with lock:  # held only until the thread is known, so that a slow update delays no other job
        others = set(threading.enumerate())
        runpod_serverless().progress_update(job, update)
        started = [thread for thread in set(threading.enumerate()) - others if "_thread_target" in thread.name]
    for thread in started:
        thread.join(timeout=_UPDATE_TIMEOUT)


def all_posted() -> bool:
    """Whether the SDK has posted the results of all jobs that it has taken."""
    from runpod.serverless.modules.worker_state import JobsProgress

    return bool(JobsProgress().get_job_count() == 0)


@contextlib.asynccontextmanager
async def stream_poster(job: dict[str, Any]) -> AsyncIterator[Callable[[HandlerResponse], Awaitable[None]]]:
    """Posts chunks of a stream as the SDK posts what a generator yields. It has no public function for a handler that returns a result."""
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import stream_result

    async with AsyncClientSession() as session:
        yield lambda chunk: stream_result(session, {"output": chunk}, job)


def runpod_serverless() -> Any:
    """Imports the SDK late: the import takes more than a second, and reads the environment that `prepare_environment` sets."""
    import runpod.serverless

    return runpod.serverless


def start_sdk(config: dict[str, Any]) -> None:
    """Starts the SDK's loop. Returns when it has ended."""
    try:
        runpod_serverless().start(config)
    finally:
        install_exception_hooks()  # replaces the SDK's exception hook, which prints tracebacks
