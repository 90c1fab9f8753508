"""Runs shell blocks of the documentation as a reader does, with recorders in place of programs that would change the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.documentation.blocks import ROOT
from tests.doubles.processes import clean_environment

_RECORDER = """#!/bin/sh
printf '%s\\n' "{name} $*" >> {calls}
exit {status}
"""
_CURL = """#!/bin/bash
exec /usr/bin/curl --silent --show-error --fail "${{@//https:\\/\\/api.runpod.ai/{gateway}}}"
"""
# The virtual environment of the checkout is that of this test, however old it is.
_MAKE = """#!/bin/sh
exec /usr/bin/make -o .venv/.ready "$@"
"""


class Shell:
    """A folder that looks like a checkout, and a PATH of its own.

    Args:
        folder: An empty folder. Every file of the repository is linked there, so that what blocks write stays in it.
        gateway: The address that `curl` calls instead of `https://api.runpod.ai`.
    """

    def __init__(self, folder: Path, gateway: str = "http://127.0.0.1:1") -> None:
        self.folder, self._tools = folder / "checkout", folder / "tools"
        self._calls = folder / "calls"
        for path in (self.folder, self._tools):
            path.mkdir(parents=True)
        for path in (*ROOT.iterdir(), ROOT / ".venv"):
            if path.name not in ("out", ".git") and path.exists() and not (self.folder / path.name).exists():
                (self.folder / path.name).symlink_to(path)
        self._tool("curl", _CURL.format(gateway=gateway.replace("/", "\\/")))
        self._tool("make", _MAKE)

    def record(self, *programs: str, status: int = 0) -> None:
        """Replaces programs by recorders of their arguments that exit with `status`."""
        for name in programs:
            self._tool(name, _RECORDER.format(name=name, calls=self._calls, status=status))

    @property
    def calls(self) -> list[str]:
        """The command lines of the recorders so far."""
        return self._calls.read_text(encoding="utf-8").splitlines() if self._calls.exists() else []

    def run(self, block: str, **variables: str) -> str:
        """Runs a block and returns what it printed. The first failing command fails the test."""
        path = os.pathsep.join((str(self._tools), str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = clean_environment(PATH=path, **variables)
        command: Sequence[str] = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _tool(self, name: str, script: str) -> None:
        path = self._tools / name
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
