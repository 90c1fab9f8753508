"""Renders chat templates in a process with limits (`handlers/chat/template_process.py`), which has none of the worker's secrets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from functools import cache

from handlers.chat.confined_process import start_confined
from handlers.chat.structured.sandbox import LimitExceeded
from shared.errors import InternalError

_KILLED = frozenset({-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL})
_RETRY = "The worker could not render the conversation. Send the job again."
_EXIT_TIMEOUT = 5.0
_TIMEOUT = 120.0  # seconds; the process itself ends earlier, once it has started


class TemplateRejected(Exception):
    """The template raised an error. The text is its own sentence; empty for an error of the interpreter."""


class TemplateRenderer:
    """Renders conversations in a child process, which ends with this one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def start(self) -> None:
        """Starts the process, without waiting until it is ready."""
        with self._lock:
            self._connect()

    def close(self) -> None:
        """Ends the process. The next conversation starts another."""
        if self._connection is not None and self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, object]],
        variables: Mapping[str, object],
        *,
        continues: bool,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> str:
        """Renders a conversation as transformers does.

        Args:
            template: The template.
            messages: Each with `role` and `content`, and perhaps calls of tools.
            variables: The tokenizer's special tokens, by name.
            continues: Whether the last message is continued instead of answered.
            tools: The tools that the model may call.

        Raises:
            TemplateRejected: The template raised an error.
            LimitExceeded: It exceeded a limit of processor time, memory or length.
            InternalError: The process could not be used.
        """
        conversation = {"messages": list(messages), "tools": list(tools), "continues": continues}
        request = {"template": template, "variables": dict(variables), **conversation}
        with self._lock:
            answer = json.loads(self._exchange(json.dumps(request, default=str).encode() + b"\n"))
        if "rendered" in answer:
            rendered: str = answer["rendered"]
            return rendered
        if "limit" in answer:
            raise LimitExceeded
        raise TemplateRejected(answer.get("rejected", ""))

    def _exchange(self, request: bytes) -> bytes:
        connection = self._connect()
        try:
            connection.sendall(request)
            with connection.makefile("rb") as file:
                answer = file.readline()
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise self._failure()
        return answer

    def _failure(self) -> Exception:
        """Ends the process, which has not answered. Returns why."""
        assert self._process is not None, "it was started before"
        try:
            code = self._process.wait(_EXIT_TIMEOUT)  # its connection closes shortly before its end
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        self.close()
        return LimitExceeded() if code in _KILLED else InternalError(_RETRY)

    def _connect(self) -> socket.socket:
        if self._connection is None:
            own, other = socket.socketpair()
            own.settimeout(_TIMEOUT)
            with other:
                self._process = start_confined("handlers.chat.template_process", other)
            self._connection = own
        return self._connection


@cache
def template_renderer() -> TemplateRenderer:
    """Returns the renderer of this process."""
    return TemplateRenderer()
