"""Processes forked from one that has already imported what workers import: the client of `playground/fork_server.py`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from playground.fork_server import Request
from shared.child_environment import without_worker_settings

ROOT = Path(__file__).parents[1]

# Prefixes of the variables that an interpreter reads when it starts, or a library when it is imported.
_READ_AT_STARTUP = (
    *("ALLOW_DOWNLOADS", "DIFFUSERS_", "GLIBC_", "HF_", "HUGGINGFACE_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TORCH_", "TRANSFORMERS_", "TZ"),
)
_PR_SET_CHILD_SUBREAPER = 36


def initial_environment() -> dict[str, str]:
    """Returns the environment of this process for workers on small models. It has no setting of a real deployment."""
    # The small models gain nothing from several threads, and on a busy machine spinning threads slow them down many times over.
    return {"OMP_NUM_THREADS": "1", **without_worker_settings(os.environ), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


class ForkServerExited(Exception):
    """The fork server has exited, or was closed. It has printed the reason to standard error."""


class Process:
    """A child process, with the interface of `subprocess.Popen` as far as it is used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)
        self._reaping = threading.Lock()  # a process can be reaped once, and several threads may wait for it

    def __del__(self) -> None:
        os.close(self._handle)

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        with self._reaping:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code.

        Raises:
            subprocess.TimeoutExpired: The process still runs after `timeout` seconds.
        """
        if self.returncode is None:
            select.select([self._handle], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    async def ended(self) -> None:
        """Waits on the running event loop until the process has ended."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._handle, event.set)
        try:
            await event.wait()
        finally:
            loop.remove_reader(self._handle)

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def kill_group(process: Process | subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, with its child processes: the SDK's ping process outlives a killed worker."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Orphans are children of this process since it started a fork server.
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-process.pid, 0)


class ForkServer:
    """A fork server, which starts with the first fork. It exits when it is closed, and with this process.

    Args:
        environment: Its environment. Forks have their own, but nothing reads it at startup: see `same_at_startup`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """Ends the server, even while it imports. Its forks live on."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _launch(self) -> None:
        # Forks become children of this process, which can wait for them.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._socket, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server:
            command = [sys.executable, "-m", "playground.fork_server", str(server.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, pass_fds=[server.fileno()], start_new_session=True)

    def start(self, request: Request, streams: Sequence[int]) -> Process:
        """Forks a process with the file descriptors `streams` as its standard input, output and error.

        Raises:
            ForkServerExited: It could not be forked.
        """
        with self._lock:
            if self._process is None and not self._closed:
                self._launch()
            try:
                pid = b"" if self._closed else self._fork(request, streams)
            except OSError:
                pid = b""
        if not pid:
            raise ForkServerExited
        return Process(int(pid))

    def _fork(self, request: Request, streams: Sequence[int]) -> bytes:
        socket.send_fds(self._socket, [request.encode()], streams)
        return self._socket.recv(32)

    def start_module(self, module: str, *arguments: str, folder: Path, environment: Mapping[str, str], output: int, errors: int) -> Process:
        """Runs `python -m MODULE ARGUMENTS` in a fork that leads a session.

        Args:
            module: Runs as `__main__`.
            arguments: Its command line.
            folder: Its working directory.
            environment: Its whole environment.
            output: File descriptor of its standard output.
            errors: File descriptor of its standard error.

        Raises:
            ForkServerExited: It could not be forked.
        """
        with open(os.devnull) as null:
            return self.start(Request(module, arguments, str(folder), environment), (null.fileno(), output, errors))


def same_at_startup(environment: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a fork with one environment, of a server with the other, behaves as a fresh process."""
    return _read_at_startup(environment) == _read_at_startup(other)


def _read_at_startup(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_STARTUP)}
