"""Runs the gateway and its workers in one event loop."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvicorn

from playground.forked import ForkServer, initial_environment
from playground.gateway import callbacks, worker_api
from playground.gateway.app import create_app
from playground.gateway.endpoint import Endpoint
from playground.gateway.workers import WorkerPool
from shared.contract.callback_hosts import LOOPBACK_HOSTS

_NEXT_PORTS = 20  # tried after the requested one


@dataclass(frozen=True)
class GatewayOptions:
    """What the gateway serves, and where.

    Attributes:
        models: The folder with the models.
        output: The folder for results and logs.
        endpoints: The module that workers of each endpoint run, by the endpoint's name.
        workers: The number of workers per endpoint.
        host: The address to bind.
        port: The port, or the first one of several to try.
        key: What callers have to send; None for no authentication.
        worker_key: What workers have to send; by default random.
        variables: More environment variables of the workers.
        clock: Returns the current time in seconds, by which jobs time out and expire; it never goes back.
    """

    models: Path
    output: Path
    endpoints: Mapping[str, str]
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    worker_key: str = field(default_factory=partial(secrets.token_urlsafe, 32), repr=False)
    variables: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic


class Gateway:
    """The gateway and its workers. The port is bound on construction.

    Args:
        options: What it serves, and where.
        fork_server: Forks the workers, which inherit its environment; by default one of its own, which ends with `run`.
    """

    def __init__(self, options: GatewayOptions, fork_server: ForkServer | None = None) -> None:
        self._options = options
        self._socket = _bind(options.host, options.port)
        self._fork_server, self._owns_fork_server = fork_server or ForkServer(initial_environment()), fork_server is None
        self._callback_secret = secrets.token_urlsafe(32)
        self.url = f"http://{_reachable(options.host)}:{self._socket.getsockname()[1]}"
        self.endpoints = [Endpoint(name, options.clock) for name in options.endpoints]
        self.pools = [self._pool(endpoint) for endpoint in self.endpoints]
        self.app = create_app(
            self.endpoints,
            options.output,
            worker_key=options.worker_key,
            callback_secret=self._callback_secret,
            key=options.key,
            any_host=options.host not in LOOPBACK_HOSTS,
        )

        self._server = _Server(self.endpoints, uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))

    async def run(self) -> None:
        """Serves until SIGINT, SIGTERM or `stop`, and then ends the workers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        async with asyncio.TaskGroup() as group:
            pools = [group.create_task(pool.run()) for pool in self.pools]
            await self._server.serve([self._socket])
            if self._owns_fork_server:
                self._fork_server.close()  # or the pools would wait for the end of its imports
            for pool in pools:
                pool.cancel()

    def stop(self) -> None:
        """Ends `run`. May be called from any thread."""
        self._server.should_exit = True

    def _pool(self, endpoint: Endpoint) -> WorkerPool:
        options, environment = self._options, partial(self.worker_environment, endpoint.name)
        logs = options.output.absolute() / "logs"
        return WorkerPool(endpoint, options.endpoints[endpoint.name], environment, logs, self._fork_server, options.workers)

    def worker_environment(self, endpoint: str, worker: str) -> dict[str, str]:
        """Returns a worker's environment."""
        output = self._options.output.absolute()
        return {
            **self._fork_server.environment,
            **worker_api.environment(self.url, endpoint, worker, self._options.worker_key),
            "MODELS_DIR": str(self._options.models.absolute()),
            "OUTPUT_DIR": str(output),
            "OUTBOX_DIR": str(output / "outbox"),
            "JOB_CALLBACK_URL": f"{self.url}{callbacks.PATH}",
            "JOB_CALLBACK_SECRET": self._callback_secret,
            "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
            "CHAT_STREAMING": "true",
            "PROGRESS_INTERVAL": "0.5",  # the least: small models are fast
            **self._options.variables,
        }


class _Server(uvicorn.Server):
    """Ends long polls before it waits for open requests, and leaves signals to the gateway, which still has to end its workers."""

    def __init__(self, endpoints: Sequence[Endpoint], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._endpoints = endpoints

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once the server has been told to exit."""
        for endpoint in self._endpoints:
            endpoint.close()
        await super().shutdown(sockets)


def _bind(host: str, port: int) -> socket.socket:
    """Binds the first free port from `port` on; port 0 is any free one.

    Raises:
        OSError: The address cannot be bound, or none of the ports is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, port + 1 if port == 0 else port + _NEXT_PORTS):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno != 98 or candidate == port + _NEXT_PORTS - 1:
                raise
    raise AssertionError


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else f"[{host}]" if ":" in host else host
