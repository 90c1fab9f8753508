"""A worker under test as a child process, in the real SDK's loop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from playground.forked import kill_group
from tests.doubles.fake_runpod import FakeRunPodAPI
from tests.doubles.processes import clean_environment, start_module


class WorkerProcess:
    """Runs `python -m MODULE` against a RunPod API, and kills it and its child processes at the end.

    Args:
        module: What to run.
        runpod_api: Where it takes its jobs.
        folder: Its working directory; results go to `out/` in it and everything it prints to `worker.log`.
        environment: More variables.
        fresh: Start a new interpreter instead of forking one that has imported the libraries.
    """

    def __init__(
        self,
        module: str,
        runpod_api: FakeRunPodAPI,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.folder = folder
        self._runpod_api = runpod_api
        self.output = folder / "out"
        self._log = folder / "worker.log"
        variables = clean_environment(**{**runpod_api.environment, "OUTPUT_DIR": str(self.output), **(environment or {})})
        with self._log.open("ab") as log:
            # In a session of its own: the SDK's ping process outlives a killed worker.
            self.process = start_module(module, folder=folder, environment=variables, output=log.fileno(), fresh=fresh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            sys.stdout.write(self.log)  # pytest shows it with the failure
        kill_group(self.process)

    @property
    def log(self) -> str:
        """Everything that the worker has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        """Sends SIGTERM, as RunPod does when it scales down."""
        self.process.send_signal(signal.SIGTERM)
        self._runpod_api.drain()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 60.0) -> int:
        """Waits for the exit code."""
        return self.process.wait(seconds)
