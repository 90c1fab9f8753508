"""Starts the child processes that do untrusted work: with one connection to the worker, and without its environment and its secrets."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def start_confined(module: str, connection: socket.socket) -> subprocess.Popen[bytes]:
    """Runs `python -m MODULE N`, where `N` is the file descriptor of the connection in the child."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(connection.fileno())],
        env={"PYTHONPATH": str(_ROOT)},
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
