"""The local gateway with stub workers, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from playground.gateway.endpoint import Endpoint
from playground.gateway.server import Gateway, GatewayOptions
from tests.doubles.processes import ROOT


class RunningGateway:
    """Serves endpoints while the `with` block runs.

    Args:
        folder: For results and logs.
        endpoints: The module that workers of each endpoint run.
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
        python_path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/doubles/processor")))  # without the SDK's measurement of the processor
        self._gateway = Gateway(
            GatewayOptions(
                models or folder,
                folder,
                endpoints,
                workers=workers,
                port=0,
                key=key,
                variables={"PYTHONPATH": python_path, **(variables or {})},
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._gateway.run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gateway.stop()
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The base of the public API, as RunPod's clients take it."""
        return f"{self._gateway.url}/v2"

    @property
    def root(self) -> str:
        """The address of the server."""
        return self._gateway.url

    def endpoint(self, name: str) -> Endpoint:
        """An endpoint's queue. It belongs to the gateway's thread: use it inside `wait_for`."""
        return next(endpoint for endpoint in self._gateway.endpoints if endpoint.name == name)

    def wait_for(self, name: str, condition: Callable[[Endpoint], object], seconds: float = 60.0) -> None:
        """Blocks until a condition of an endpoint holds."""
        endpoint = self.endpoint(name)
        waiting = asyncio.run_coroutine_threadsafe(endpoint.wait(partial(condition, endpoint), seconds), self._loop)
        waiting.result()
        assert condition(endpoint), f"no such state within {seconds} s"

    def kill_worker(self, name: str, index: int = 0) -> str:
        """Sends SIGKILL to one of an endpoint's running workers, and returns its id."""
        pool = next(pool for pool in self._gateway.pools if pool.endpoint.name == name)
        worker = sorted(pool.processes)[index % len(pool.processes)]
        os.kill(pool.processes[worker], signal.SIGKILL)
        return worker

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends one request to `/v2/{path}`."""
        return httpx.request(method, f"{self.url}/{path}", timeout=60, **options)
