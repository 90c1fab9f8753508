"""A worker as a process of its own, in the real SDK's loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.settings import unconfigured
from tests.doubles.fake_runpod import FakeRunPodAPI

ROOT = Path(__file__).parents[2]

# The second has a `cpuinfo` that measures nothing.
_MODULES = os.pathsep.join(map(str, (ROOT, Path(__file__).with_name("processor"))))


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that configures a worker, and with `variables`."""
    return unconfigured(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": _MODULES} | variables


class WorkerProcess:
    """Starts `python -m MODULE` against a gateway, and ends it and everything that it started.

    Args:
        module: What to run.
        gateway: Where it takes its jobs.
        folder: Its working directory; results go to `out/` in it and everything it prints to `worker.log`.
        environment: More variables.
    """

    def __init__(self, module: str, runpod_api: FakeRunPodAPI, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._gateway = runpod_api
        self.output = folder / "out"
        self._log = folder / "worker.log"
        variables = {**runpod_api.environment, "OUTPUT_DIR": str(self.output), **(environment or {})}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=folder,
                env=clean_environment(**variables),
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: the SDK's ping process outlives a killed worker.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            sys.stdout.write(self.log)  # pytest shows it with the failure
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()

    @property
    def log(self) -> str:
        """Everything that the worker has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        """Asks the worker to end, as RunPod does when it scales down."""
        self.process.send_signal(signal.SIGTERM)
        self._gateway.drain()

    def kill(self) -> None:
        """Ends the worker in the middle of what it does."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 30.0) -> int:
        """Waits for the end and returns the exit code."""
        return self.process.wait(seconds)
