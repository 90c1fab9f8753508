"""The local gateway with workers forked from the tests' fork server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from playground.gateway.background import BackgroundGateway
from playground.gateway.server import GatewayOptions
from tests.doubles.processes import fork_server


class RunningGateway(BackgroundGateway):
    """Serves endpoints on a free port while the `with` block runs.

    Args:
        folder: For results and logs.
        endpoints: The module that workers of each endpoint run.
        models: The folder with the models.
        workers: The number of workers per endpoint; with 0, jobs stay in the queue.
        key: What callers have to send.
        variables: More environment variables of the workers.
    """

    def __init__(
        self,
        folder: Path,
        endpoints: Mapping[str, str],
        *,
        models: Path | None = None,
        workers: int = 1,
        key: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._passed = 0.0
        self.logs = folder.absolute() / "logs"
        options = GatewayOptions(
            models or folder,
            folder,
            endpoints,
            workers=workers,
            port=0,
            key=key,
            variables=variables or {},
            clock=lambda: time.monotonic() + self._passed,
        )
        super().__init__(options, fork_server())

    def advance(self, seconds: float) -> None:
        """Lets time pass for jobs: those that ended are forgotten after their retention."""
        self._passed += seconds

    def kill_worker(self, name: str, index: int = 0) -> str:
        """Sends SIGKILL to one of an endpoint's running workers, and returns its id."""
        processes = dict(self.pool(name).processes)
        worker = sorted(processes)[index % len(processes)]
        os.kill(processes[worker], signal.SIGKILL)
        return worker
