"""A subprocess that loads untrusted files under an audit hook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doubles.processes import ROOT, clean_environment


@dataclass(frozen=True)
class LoadResult:
    """The result of one attempt.

    Attributes:
        outcome: `loaded`, or the error's type and message.
        events: Audit events: opened archives and scripts, names resolved by an unpickler, started processes.
    """

    outcome: str
    events: list[str]


class AuditedLoader:
    """The subprocess `tests.untrusted.audited_loader`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._requests = 0

    def load(self, loader: str, path: Path) -> LoadResult:
        """Loads a file or folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests += 1
        self._process.stdin.write(json.dumps([self._requests, loader, str(path)]) + "\n")
        self._process.stdin.flush()
        number = 0
        while number != self._requests:  # skips the response to a request that timed out
            number, outcome, events = json.loads(self._process.stdout.readline())
        return LoadResult(outcome, events)


@pytest.fixture(scope="package")
def loader(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedLoader]:
    errors = tmp_path_factory.mktemp("loader") / "errors.log"
    environment = clean_environment(TINY_MODELS=str(tiny_models))
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.untrusted.audited_loader"],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        yield AuditedLoader(process)
        process.kill()
        process.wait()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder for malicious files. The audit hook recognizes it by its name."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path that malicious files create if their code runs. Asserts afterwards that it does not exist."""
    path = tmp_path / "code-has-run"
    yield path
    assert not os.path.lexists(path), "code was executed"
