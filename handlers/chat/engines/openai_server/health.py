"""Watches an inference server between jobs, so that a dead or hanging one is noticed before a job is taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from handlers.chat.engines.openai_server.connection import create_client
from shared.telemetry import logger


@dataclass(frozen=True)
class Probing:
    """How a server is probed.

    Attributes:
        interval: Seconds between two probes.
        timeout: Seconds that `/health` may take.
        failures: Successive failures after which the server has failed.
        error_is_final: Whether an error status says that the server will not recover, as vLLM's does.
    """

    interval: float = 5.0
    timeout: float = 5.0
    failures: int = 3
    error_is_final: bool = False


# Seconds before the next probe after a failure.
_RETRY_INTERVAL = 0.5


class HealthMonitor:
    """Probes a server's `/health` on a thread of its own, until the server fails or `close`.

    Args:
        url: The server's base URL.
        probing: How it is probed.
        exited: Returns whether the server's process has ended, where it is known.
    """

    def __init__(self, url: str, probing: Probing | None = None, exited: Callable[[], bool] = lambda: False) -> None:
        self._url = url
        self._probing = probing or Probing()
        self._exited = exited
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[], None]) -> None:
        """Starts probing.

        Args:
            on_failure: Called once, on the monitor's thread, when the server has failed.
        """
        self._thread = threading.Thread(target=self._run, args=(on_failure,), name="health", daemon=True)
        self._thread.start()

    def probe_now(self) -> None:
        """Asks for a probe at once: a request has just failed."""
        self._wake.set()

    def close(self) -> None:
        """Ends the thread."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, on_failure: Callable[[], None]) -> None:
        with create_client(self._url) as client:
            reason = self._wait_for_failure(client)
        if reason is not None:
            logger().error("inference server failed", reason=reason)
            on_failure()

    def _wait_for_failure(self, client: httpx.Client) -> str | None:
        """Returns the reason; None after `close`."""
        failures = 0
        while True:
            self._wake.wait(_RETRY_INTERVAL if failures else self._probing.interval)
            self._wake.clear()
            if self._closed:
                return None
            if self._exited():
                return "its process has ended"
            problem, final = self._probe(client)
            failures = 0 if problem is None else failures + 1
            if problem is not None and (final or failures == self._probing.failures):
                return problem

    def _probe(self, client: httpx.Client) -> tuple[str | None, bool]:
        """Returns what is wrong, and whether that is final."""
        try:
            status = client.get("/health", timeout=self._probing.timeout).status_code
        except httpx.TransportError as error:
            return type(error).__name__, False
        return (None, False) if status == httpx.codes.OK else (f"/health returned {status}", self._probing.error_is_final)
