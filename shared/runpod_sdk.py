"""Calls of RunPod's SDK: its start, progress updates, streamed chunks, and what it has still to post."""

from __future__ import annotations

import contextlib
import platform
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
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
    """Imports the SDK late: the import takes half a second, and reads the environment that `prepare_environment` sets."""
    with _processor_from_proc():
        import runpod.serverless

    return runpod.serverless


@contextlib.contextmanager
def _processor_from_proc() -> Iterator[None]:
    """Answers the SDK's question to py-cpuinfo, which starts a process and measures the clock for 1.2 seconds.

    The SDK asks once, at its import, for the name of the processor, which only its debugger shows.
    """
    if not sys.modules.keys().isdisjoint({"cpuinfo", "runpod"}):
        yield
        return
    stand_in = ModuleType("cpuinfo")
    stand_in.get_cpu_info = lambda: {"brand_raw": processor_name()}  # type: ignore[attr-defined]
    sys.modules["cpuinfo"] = stand_in
    try:
        yield
    finally:
        sys.modules.pop("cpuinfo", None)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the processor, or its architecture where Linux does not tell the name.

    Args:
        cpuinfo: The kernel's description of the processors.
    """
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def start_sdk(config: dict[str, Any]) -> None:
    """Starts the SDK's loop. Returns when it has ended."""
    try:
        runpod_serverless().start(config)
    finally:
        install_exception_hooks()  # replaces the SDK's exception hook, which prints tracebacks
