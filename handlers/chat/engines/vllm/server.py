"""vLLM's server as a child process: started, awaited, and ended with everything that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from handlers.chat.engines.openai_server.connect import wait_until_ready
from handlers.chat.engines.openai_server.connection import create_client
from handlers.chat.engines.vllm import guardian
from handlers.chat.engines.vllm.server_log import ServerLog
from shared.settings import SettingsError

_REAP_TIMEOUT = 10.0  # seconds for the guardian to kill and reap the others
_READ_TIMEOUT = 5.0  # for the rest of its output


class VllmServer:
    """A running server on loopback.

    Args:
        name: The model in messages and log lines.
        command: Returns the command for a port.
        environment: Its environment.
        grace: Seconds that it has to end after SIGTERM; vLLM takes about three.

    Attributes:
        url: Its base URL.
    """

    def __init__(self, name: str, command: Callable[[int], Sequence[str]], environment: Mapping[str, str], grace: float = 10.0) -> None:
        self._name = name
        self._end_timeout = grace + _REAP_TIMEOUT
        self._log = ServerLog(name)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, str(os.getpid()), str(grace), *command(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdout is not None
        self._group = _group_id(self._process.stdout.readline())
        self._reader = threading.Thread(target=self._log.forward, args=(self._process.stdout,), name="vllm-log", daemon=True)
        self._reader.start()

    @property
    def has_exited(self) -> bool:
        """Whether the server has ended."""
        return self._process.poll() is not None

    def wait_until_ready(self, timeout: float) -> None:
        """Waits until the server accepts requests.

        Raises:
            SettingsError: It has ended, or is not ready in time.
        """
        with create_client(self.url) as client:
            status = wait_until_ready(client, timeout, lambda: self.has_exited)
        if status == httpx.codes.OK:
            self._log.ready = True
            return
        has_ended = self.has_exited
        self.close()
        self._reader.join(_READ_TIMEOUT)
        reason = f": {self._log.last_error}" if self._log.last_error is not None else ""
        what = "ended during its start" if has_ended else f"was not ready within {timeout:g} seconds (CHAT_ENGINE_START)"
        raise SettingsError(f"vLLM's server of {self._name} {what}{reason}. Its lines in this log say more.")

    def close(self) -> None:
        """Ends the server: gently, then by killing its process group, so that nothing of it keeps the GPU."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._end_timeout)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the guardian has done that, unless it was killed itself
            if self._group is not None:
                os.killpg(self._group, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def _group_id(line: str) -> int | None:
    return int(line) if line.strip().isdigit() else None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def check_python(python: Path) -> None:
    """Checks that there is a Python with vLLM.

    Raises:
        SettingsError: There is none.
    """
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    with contextlib.suppress(OSError):
        if subprocess.run([python, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return
    raise SettingsError("CHAT_VLLM_PYTHON must be the Python of an environment in which vLLM is installed, as in the image chat-vllm.")
