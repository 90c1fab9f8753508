"""Runs modules as child processes, forked from a process that has already imported their libraries unless a test asks for a fresh one."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

from shared.child_environment import without_worker_settings
from tests.doubles.fork_server import Request

ROOT = Path(__file__).parents[2]

# The second contains a `cpuinfo` that measures nothing.
_PYTHONPATH = os.pathsep.join(map(str, (ROOT, Path(__file__).with_name("processor"))))
# Prefixes of the variables that an interpreter reads when it starts, or a library when it is imported.
_READ_AT_STARTUP = (
    *("ALLOW_DOWNLOADS", "DIFFUSERS_", "GLIBC_", "HF_", "HUGGINGFACE_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TORCH_", "TRANSFORMERS_", "TZ"),
)
_PR_SET_CHILD_SUBREAPER = 36


# Before a test loads a model: the libraries are then told by variables to stay offline, and a worker sets those itself.
_INHERITED_ENVIRONMENT = dict(os.environ)


def clean_environment(**variables: str) -> dict[str, str]:
    """Returns the environment that this process was started with, without the configuration of a worker, updated with `variables`."""
    return (
        without_worker_settings(_INHERITED_ENVIRONMENT)
        | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": _PYTHONPATH}
        | variables
    )


# Of a fork server, whenever it starts.
_INITIAL_ENVIRONMENT = clean_environment()


class Process:
    """A child process, with the interface of `subprocess.Popen` as far as tests use it."""

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

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The client of `tests.doubles.fork_server`."""

    def __init__(self) -> None:
        # Forks become children of this process, which can wait for them.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._lock = Lock()
        self._socket, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server:
            command = [sys.executable, "-m", "tests.doubles.fork_server", str(server.fileno())]
            # It exits when this process does, because the connection is closed.
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=_INITIAL_ENVIRONMENT, pass_fds=[server.fileno()], start_new_session=True
            )

    def start(self, request: Request, streams: Sequence[int]) -> Process:
        """Forks a process with the file descriptors `streams` as its standard input, output and error."""
        with self._lock:
            socket.send_fds(self._socket, [request.encode()], streams)
            pid = self._socket.recv(32)
        assert pid, "the fork server has exited"
        return Process(int(pid))


@cache
def fork_server() -> ForkServer:
    """Returns the fork server of this process, and starts it on first use."""
    return ForkServer()


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a fork with this environment behaves as a fresh process with it."""
    return _read_at_startup(environment) == _read_at_startup(_INITIAL_ENVIRONMENT)


def _read_at_startup(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_STARTUP)}


def start_module(
    module: str, *arguments: str, folder: Path, environment: Mapping[str, str], output: int, errors: int | None = None, fresh: bool = False
) -> Process | subprocess.Popen[bytes]:
    """Starts `python -m MODULE ARGUMENTS` in a session of its own.

    Args:
        module: Runs as `__main__`.
        arguments: Its command line.
        folder: Its working directory.
        environment: Its whole environment.
        output: File descriptor of its standard output.
        errors: File descriptor of its standard error, by default `output`.
        fresh: Start a new interpreter. Implied by an environment that affects its start, or an import.
    """
    errors = output if errors is None else errors
    if fresh or not can_fork(environment):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors, start_new_session=True)
    with open(os.devnull) as null:
        return fork_server().start(Request(module, arguments, str(folder), environment), (null.fileno(), output, errors))


def run_module(
    module: str, *arguments: str, folder: Path, environment: Mapping[str, str], timeout: float = 100.0, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS` and returns what it printed.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = start_module(
            module, *arguments, folder=folder, environment=environment, output=output.fileno(), errors=errors.fileno(), fresh=fresh
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess([module, *arguments], code, output.read(), errors.read())
