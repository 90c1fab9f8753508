"""Starts worker processes, and starts them again when they end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from playground.gateway.endpoint import Endpoint

ROOT = Path(__file__).parents[2]

_MAX_START_DELAY = 30.0


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """In the child: receive SIGKILL when the gateway is killed, which cannot end its workers then."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class WorkerPool:
    """The workers of one endpoint.

    Args:
        endpoint: Where they take their jobs.
        module: What they run, by `python -m`.
        environment: Returns the whole environment of the worker with this id.
        logs: The folder for their logs, `{worker}.log`.
        size: The number of workers.
    """

    def __init__(self, endpoint: Endpoint, module: str, environment: Callable[[str], Mapping[str, str]], logs: Path, size: int = 1) -> None:
        self.endpoint, self._module, self._environment, self._logs, self._size = endpoint, module, environment, logs, size
        self._processes: dict[str, Process] = {}
        self._started = 0

    @property
    def processes(self) -> Mapping[str, int]:
        """The process ids of the running workers, by worker id."""
        return {worker: process.pid for worker, process in self._processes.items()}

    async def run(self) -> None:
        """Keeps all workers running until it is cancelled, and then kills them."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._size):
                group.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        delay = 0.0
        while True:
            worker = self._next_id()
            await self._run_worker(worker)
            ready = self.endpoint.workers.get(worker) == "ready"
            self.endpoint.worker_ended(worker)
            delay = 0.0 if ready else min(2 * delay + 1, _MAX_START_DELAY)
            await asyncio.sleep(delay)

    async def _run_worker(self, worker: str) -> None:
        """Starts a worker in a session of its own, and waits for its end. Its child processes end with it."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{worker}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                cwd=self._logs,  # it writes nothing outside
                env={"PYTHONPATH": str(ROOT), **self._environment(worker)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._processes[worker] = process
        self.endpoint.worker_started(worker)
        try:
            await process.wait()
        finally:
            del self._processes[worker]
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _next_id(self) -> str:
        self._started += 1
        return f"{self.endpoint.name}-{self._started}"
