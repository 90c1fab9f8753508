"""A gateway that runs in a thread of this process, for programs that submit jobs to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from starlette.applications import Starlette

from playground.forked import ForkServer
from playground.gateway.endpoint import Endpoint
from playground.gateway.server import Gateway, GatewayOptions
from playground.gateway.workers import WorkerPool

T = TypeVar("T")

_REQUEST_SECONDS = 60.0


class BackgroundGateway:
    """Serves endpoints while the `with` block runs.

    Args:
        options: What it serves, and where.
        fork_server: Forks the workers; by default one of its own.
    """

    def __init__(self, options: GatewayOptions, fork_server: ForkServer | None = None) -> None:
        self._options = options
        self._gateway = Gateway(options, fork_server)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._gateway.run()), name="gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gateway.stop()
        self._thread.join()
        self._loop.close()

    @property
    def root(self) -> str:
        """The address of the server."""
        return self._gateway.url

    @property
    def url(self) -> str:
        """The base of the public API, as RunPod's clients take it."""
        return f"{self.root}/v2"

    @property
    def app(self) -> Starlette:
        """The application, to which middleware can be added before the start."""
        return self._gateway.app

    def endpoint(self, name: str) -> Endpoint:
        """An endpoint's queue. It belongs to the gateway's thread: use it inside `act` and `wait_for`."""
        return next(endpoint for endpoint in self._gateway.endpoints if endpoint.name == name)

    def pool(self, name: str) -> WorkerPool:
        """An endpoint's workers. They belong to the gateway's thread: only look at them."""
        return next(pool for pool in self._gateway.pools if pool.endpoint.name == name)

    def wait_for(self, name: str, condition: Callable[[Endpoint], object], seconds: float = 60.0) -> None:
        """Blocks until a condition of an endpoint holds.

        Raises:
            TimeoutError: It does not hold within so many seconds.
        """
        endpoint = self.endpoint(name)
        asyncio.run_coroutine_threadsafe(endpoint.wait(partial(condition, endpoint), seconds), self._loop).result()
        if not condition(endpoint):
            raise TimeoutError(f"The endpoint {name} has not reached the state within {seconds:g} s.")

    def act(self, name: str, action: Callable[[Endpoint], T]) -> T:
        """Calls a function with an endpoint on the gateway's thread and returns its result."""

        async def call() -> T:
            return action(self.endpoint(name))

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends one request to `/v2/{path}`, with the key that it demands unless `headers` are given."""
        headers = {"Authorization": f"Bearer {self._options.key}"} if self._options.key else {}
        return httpx.request(method, f"{self.url}/{path}", **{"timeout": _REQUEST_SECONDS, "headers": headers, **options})
