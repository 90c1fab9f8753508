"""Starts worker processes, and starts them again when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from playground.forked import ForkServer, ForkServerExited, Process, kill_group
from playground.gateway.endpoint import Endpoint

_MAX_START_DELAY = 30.0


class WorkerPool:
    """The workers of one endpoint.

    Args:
        endpoint: Where they take their jobs.
        module: What they run, as `__main__`.
        environment: Returns the whole environment of the worker with this id.
        logs: The folder for their logs, `{worker}.log`.
        fork_server: Forks them.
        size: The number of workers.

    Attributes:
        started: How many workers were started so far. More than `size` if some have ended.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        module: str,
        environment: Callable[[str], Mapping[str, str]],
        logs: Path,
        fork_server: ForkServer,
        size: int = 1,
    ) -> None:
        self.endpoint, self._module, self._environment, self._logs, self._size = endpoint, module, environment, logs, size
        self._fork_server = fork_server
        self._processes: dict[str, Process] = {}
        self.started = 0

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
            self.endpoint.worker_started(worker)
            await self._run_worker(worker)
            ready = self.endpoint.workers.get(worker) == "ready"
            self.endpoint.worker_ended(worker)
            delay = 0.0 if ready else min(2 * delay + 1, _MAX_START_DELAY)
            await asyncio.sleep(delay)

    async def _run_worker(self, worker: str) -> None:
        """Starts a worker in a session of its own, and waits for its end. Its child processes end with it."""
        process = await self._start(worker)
        self._processes[worker] = process
        try:
            await process.ended()
        finally:
            del self._processes[worker]
            kill_group(process)

    async def _start(self, worker: str) -> Process:
        """Waits for the fork server, which may still be importing libraries. A worker that starts after a cancellation is killed."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._fork, worker))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(ForkServerExited):
                kill_group(await starting)
            raise

    def _fork(self, worker: str) -> Process:
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{worker}.log").open("wb") as log:
            output = log.fileno()
            folder = self._logs  # it writes nothing outside
            environment = self._environment(worker)
            return self._fork_server.start_module(self._module, folder=folder, environment=environment, output=output, errors=output)

    def _next_id(self) -> str:
        self.started += 1
        return f"{self.endpoint.name}-{self.started}"
