"""The sandbox's process: `python -m handlers.chat.structured.sandbox_process FD`.

It receives one socket per task, and forks a process for it whose processor time, memory and duration are limited. The kernel kills a task
that exceeds a limit; its socket then closes without a response.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from handlers.chat.structured.checks import check, conforms
from handlers.chat.structured.tool_grammar import check_tools, conforms_to_tools

PROCESSOR_SECONDS = 2
MEMORY = 512 * 2**20
# Seconds. More than the processor time, because other processes may compete for it.
DURATION = 20

_TASKS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "check": lambda task: check_tools(task["value"]) if task["kind"] == "tools" else check(task["kind"], task["value"]),
    "conforms": lambda task: _conforms(task["kind"], task["value"], task["text"]),
}


def main() -> None:
    """Forks a process for every socket that is received, until the parent closes the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    parent = socket.socket(fileno=int(sys.argv[1]))
    parent.sendall(b"r")  # ready
    while True:
        message, descriptors, _, _ = socket.recv_fds(parent, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            parent.close()
            _run(socket.socket(fileno=descriptors[0]))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _conforms(kind: str, value: Any, text: str) -> bool:
    return conforms_to_tools(value, text) if kind == "tools" else conforms(kind, value, text)


def _run(connection: socket.socket) -> None:
    set_limits()
    with connection, connection.makefile("rwb") as file:
        task = json.loads(file.read())
        file.write(json.dumps(_TASKS[task["task"]](task)).encode())


def set_limits() -> None:
    """Limits this process: its duration, its processor time and its memory."""
    signal.alarm(DURATION)
    limit_memory(MEMORY)
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(size: int) -> None:
    """Limits the bytes that this process may allocate from now on."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))


if __name__ == "__main__":
    main()
