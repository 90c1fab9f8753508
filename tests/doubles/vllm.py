"""Controls the stand-in for vLLM's server, and looks at its processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from tests.doubles.processes import ROOT
from tests.doubles.vllm_stand_in import make_python


@dataclass(frozen=True)
class StandIn:
    """The folder that controls a stand-in for vLLM, and what it has written there."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "python"

    def set(self, name: str, content: str = "") -> None:
        (self.folder / name).write_text(content, encoding="utf-8")

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def pids(self) -> list[tuple[int, int]]:
        """The processes of each server: its API server and its engine."""
        path = self.folder / "pids"
        pairs = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(server), int(engine)) for server, engine in pairs]

    def settings(self, **changes: Any) -> Settings:
        given: dict[str, Any] = {
            "chat_engine": "vllm",
            "chat_vllm_python": self.python,
            "chat_engine_start": 60.0,
            "chat_engine_concurrency": 4,
        }
        return Settings(**given | changes)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def stand_in_at(folder: Path) -> Iterator[StandIn]:
    """A stand-in that is controlled by files in a folder. What is left of its processes is killed at the end."""
    make_python(folder)
    stand_in = StandIn(folder)
    yield stand_in
    for pid in (pid for pair in stand_in.pids for pid in pair if is_running(pid)):
        os.kill(pid, signal.SIGKILL)


_PYTHON = ROOT / ".vllm-venv/bin/python"


def real_vllm() -> dict[str, Any]:
    """The settings of a worker that runs vLLM itself, on this machine's CPU. Skips the test where it is not installed."""
    if not _PYTHON.exists():
        pytest.skip("needs vLLM: run `make vllm` (3.5 GB)")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return {
        "chat_engine": "vllm",
        "chat_vllm_python": _PYTHON,
        "chat_vllm_arguments": "--dtype float32 --enforce-eager",
        "chat_cache_gb": 1.0,
        "chat_engine_concurrency": 8,
        "chat_engine_start": 400.0,
    }
