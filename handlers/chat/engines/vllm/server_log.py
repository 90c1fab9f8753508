"""Forwards vLLM's output to the worker's log: all of its start-up, and afterwards nothing that could quote a conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable

from shared.telemetry import logger

# (EngineCore pid=9) INFO 11-29 12:00:00 [core.py:7] Initializing a V1 LLM engine …
_LINE = re.compile(
    r"(?:\((?P<process>[^)]*)\)\s*)?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ \S+ \[(?P<where>[^\]]+)\] ?(?P<text>.*)"
)
_EXCEPTION = re.compile(r"(?:\([^)]*\)\s*)?(?P<text>[\w.]+(?:Error|Exception|Exit): .*)")
# An absolute path, except for its last part. Not that of a URL.
_FOLDERS = re.compile(r"(?<![\w./:])/(?:[^\s/'\",:()]+/)+")
# The banner and the list of routes.
_NOISE = re.compile(r"^\W*$|[█▀▄]|^Available routes|^Route: ")
_MAX_LENGTH = 400


class ServerLog:
    """The log of one server.

    Args:
        model: The model in log lines.

    Attributes:
        ready: Whether requests may have arrived: from then on, only the level and the place of a line are logged above DEBUG.
        last_error: The last error of the start-up.
    """

    def __init__(self, model: str) -> None:
        self.ready = False
        self.last_error: str | None = None
        self._model = model

    def forward(self, lines: Iterable[str]) -> None:
        """Logs every line until the output ends."""
        for line in lines:
            self._forward(line.rstrip())

    def _forward(self, line: str) -> None:
        logger().debug("vllm, in full", model=self._model, text=line)
        if (exception := _EXCEPTION.match(line)) is not None:
            self._note_error(exception["text"])
        if (match := _LINE.match(line)) is None:
            return  # part of a traceback or a progress bar
        if _NOISE.search(match["text"]):
            return
        level, facts = match["level"].lower(), {"model": self._model, "where": match["where"].strip()}
        if not self.ready:
            text = _FOLDERS.sub("…/", match["text"])[:_MAX_LENGTH]
            if level in ("error", "critical") and (exception := _EXCEPTION.match(match["text"])) is not None:
                self._note_error(exception["text"])
            getattr(logger(), level)("vllm", **facts, text=text)
        elif level not in ("debug", "info"):
            getattr(logger(), level)("vllm", **facts)

    def _note_error(self, text: str) -> None:
        if not self.ready:
            self.last_error = _FOLDERS.sub("…/", text)[:_MAX_LENGTH]
