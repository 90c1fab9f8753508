"""A process that loads what it is told to, watched from below."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doubles.worker import ROOT, clean_environment


@dataclass(frozen=True)
class Visit:
    """What became of one attempt.

    Attributes:
        outcome: `loaded`, or the error's type and text.
        seen: Pickles and programs that were opened, names that an unpickler looked up, processes that were started.
    """

    outcome: str
    seen: list[str]


class Guest:
    """The process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._asked = 0

    def load(self, loader: str, path: Path) -> Visit:
        """Has it load something."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked += 1
        self._process.stdin.write(json.dumps([self._asked, loader, str(path)]) + "\n")
        self._process.stdin.flush()
        answered = 0
        while answered != self._asked:  # a test before may have given up waiting
            answered, outcome, seen = json.loads(self._process.stdout.readline())
        return Visit(outcome, seen)


@pytest.fixture(scope="package")
def guest(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    errors = tmp_path_factory.mktemp("guest") / "errors.log"
    environment = clean_environment(TINY_MODELS=str(tiny_models))
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.untrusted.audited_loader"],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        yield Guest(process)
        process.kill()
        process.wait()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder for what is hostile. The hook knows it by its name."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """What would be there if anything had run. It never is."""
    path = tmp_path / "code-has-run"
    yield path
    assert not os.path.lexists(path), "code has run"
