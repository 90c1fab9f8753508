"""A sandbox for work on JSON Schemas: a child process without secrets that forks a process with limits for each task."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from functools import cache
from typing import Any

from handlers.chat.confined_process import start_confined
from shared.errors import InternalError

_START_TIMEOUT = 120.0
_TASK_TIMEOUT = 30.0  # seconds; the process itself ends earlier
_MAX_TASKS = 2  # at once
_RETRY = "The worker could not check the response format. Send the job again."


class LimitExceeded(Exception):
    """A task has exceeded its limit of processor time or memory."""


class Sandbox:
    """Runs tasks in processes with limits. Thread-safe. The child process starts with the first task, and ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_MAX_TASKS)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, task: str, **values: object) -> Any:
        """Runs a task of `sandbox_process` and returns its result.

        Raises:
            LimitExceeded: The task has been killed.
            InternalError: The child process could not be used.
        """
        with self._slots:
            response = self._exchange(json.dumps({"task": task, **values}).encode())
        if not response:
            raise LimitExceeded
        return json.loads(response)

    def close(self) -> None:
        """Ends the child process."""
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.wait()
            self._control = self._process = None

    def _exchange(self, request: bytes) -> bytes:
        own, other = socket.socketpair()
        with own:
            own.settimeout(_TASK_TIMEOUT)
            with other:
                self._send(other)
            try:
                own.sendall(request)
                own.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: own.recv(2**16), b""))
            except (BrokenPipeError, ConnectionResetError):
                return b""
            except TimeoutError:
                raise InternalError(_RETRY) from None

    def _send(self, connection: socket.socket) -> None:
        """Hands a socket to the child process, which is restarted if it has died."""
        with self._lock:
            for _ in range(2):
                control = self._control or self._start()
                try:
                    socket.send_fds(control, [b"t"], [connection.fileno()])
                except OSError:
                    control.close()
                    self._control = None
                else:
                    return
        raise InternalError(_RETRY)

    def _start(self) -> socket.socket:
        own, other = socket.socketpair()
        with other:
            self._process = start_confined("handlers.chat.structured.sandbox_process", other)
        own.settimeout(_START_TIMEOUT)
        if not own.recv(1):
            raise InternalError(_RETRY)
        own.settimeout(None)
        self._control = own
        return own


@cache
def sandbox() -> Sandbox:
    """Returns the sandbox of this process."""
    return Sandbox()
