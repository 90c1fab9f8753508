"""Runs modules as child processes, forked from a process that has already imported their libraries unless a test asks for a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from playground.forked import ROOT, ForkServer, Process, same_at_startup
from shared.child_environment import without_worker_settings

__all__ = ["ROOT"]

# Before a test loads a model: the libraries are then told by variables to stay offline, and a worker sets those itself.
_INHERITED_ENVIRONMENT = dict(os.environ)


def clean_environment(**variables: str) -> dict[str, str]:
    """Returns the environment that this process was started with, without the configuration of a worker, updated with `variables`."""
    return (
        without_worker_settings(_INHERITED_ENVIRONMENT)
        | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        | variables
    )


@cache
def fork_server() -> ForkServer:
    """Returns the fork server of this process, and starts it on first use."""
    return ForkServer(clean_environment())


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a fork with this environment behaves as a fresh process with it."""
    return same_at_startup(environment, clean_environment())


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
    return fork_server().start_module(module, *arguments, folder=folder, environment=environment, output=output, errors=errors)


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
